//! Completions and man pages: made from the commands, complete, and readable by the programs that they are for.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

fn taskvec(arguments: &[&str]) -> String {
    let output = assert_cmd::Command::cargo_bin("taskvec").unwrap().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `taskvec --help` lists.
fn commands() -> Vec<String> {
    let help = taskvec(&["--help"]);
    let list = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let name = |l: &str| l.strip_prefix("  ")?.split(' ').next().filter(|n| !n.is_empty()).map(str::to_owned);
    list.filter_map(name).collect()
}

/// The long flags in the help of a command.
fn flags(command: &str) -> BTreeSet<String> {
    let help = taskvec(&[command, "--help"]);
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let listed = |w: &&str| help.contains(&format!("\n      {w}")) || help.contains(&format!(", {w}"));
    words.filter(|w| w.len() > 2 && w.starts_with("--")).filter(listed).map(str::to_owned).collect()
}

/// Whether `program` accepts `text`; `None` if it is not installed.
fn accepts(program: &str, arguments: &[&str], text: &str) -> Option<bool> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    std::io::Write::write_all(&mut child.stdin.take()?, text.as_bytes()).ok()?;
    Some(child.wait().ok()?.success())
}

#[test]
fn completions_name_every_command_and_flag_and_their_shells_read_them() {
    let commands = commands();
    assert!(commands.len() > 12, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = taskvec(&["completions", shell]);
        for command in &commands {
            assert!(text.contains(command.as_str()), "{shell}: {command}");
        }
        let dashes = if shell == "fish" { "" } else { "--" };
        for flag in flags("compare") {
            assert!(text.contains(&format!("{dashes}{}", flag.trim_start_matches('-'))), "{shell}: {flag}");
        }
        assert_ne!(accepts(shell, &["-n"], &text), Some(false), "{shell} -n");
    }
    assert_eq!(accepts("bash", &["-n"], "if"), Some(false), "bash -n finds errors");
}

#[test]
fn every_command_has_a_man_page_with_all_its_flags() {
    const MACROS: &[&str] =
        &[".ie", ".el", ".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".br", ".IP", ".nf", ".fi"];
    let folder = tempfile::tempdir().unwrap();
    taskvec(&["man", folder.path().join("man").to_str().unwrap()]);
    for command in commands() {
        let page = std::fs::read_to_string(folder.path().join(format!("man/taskvec-{command}.1"))).unwrap();
        let plain = page.replace('\\', "");
        for flag in flags(&command) {
            assert!(plain.contains(&flag), "{command}: {flag}");
        }
        let requests = page.lines().filter(|l| l.starts_with('.')).map(|l| l.split(' ').next().unwrap_or_default());
        let unknown: Vec<&str> = requests.filter(|r| !MACROS.contains(r)).collect();
        assert!(unknown.is_empty(), "{command}: {unknown:?}");
        assert_ne!(accepts("groff", &["-man", "-Tutf8", "-z", "-b"], &page), Some(false), "{command}: groff");
    }
    let main = std::fs::read_to_string(folder.path().join("man/taskvec.1")).unwrap();
    assert!(commands().iter().all(|c| main.contains(&format!("taskvec\\-{}", c.replace('-', "\\-")))));
}
