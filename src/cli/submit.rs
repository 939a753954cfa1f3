//! `taskvec submit`: what hands a planned merge to a scheduler, as text to be read, changed and run.

use super::merge::size;
use super::{Outcome, print};
use clap::{Args, Subcommand};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use taskvec::{Error, Result, job};

/// Memory that the kernel needs beside what the program counts.
const MARGIN_MIB: u64 = 256;

#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(subcommand)]
    pub command: SubmitCommand,
}

#[derive(Debug, Subcommand)]
pub enum SubmitCommand {
    /// Print a script that submits array jobs, each stage after the one before.
    Slurm {
        #[command(flatten)]
        each: EachArgs,
        /// Time limit of a part, as sbatch takes it.
        #[arg(long, value_name = "TIME", default_value = "01:00:00")]
        time: String,
    },
    /// Print a manifest of Indexed Jobs.
    Kubernetes {
        #[command(flatten)]
        each: EachArgs,
        /// Container image with taskvec in its PATH.
        #[arg(long, value_name = "IMAGE")]
        image: String,
        /// Volume claim that models and run lie on (ReadWriteMany).
        #[arg(long, value_name = "NAME")]
        claim: String,
        /// Where it is mounted: the same path as here.
        #[arg(long, value_name = "PATH")]
        mount: PathBuf,
    },
}

/// What each part gets.
#[derive(Debug, Args)]
pub struct EachArgs {
    /// plan.json, or its folder.
    #[arg(long, value_name = "RUN")]
    pub plan: PathBuf,
    /// Cores of a part.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub cpus: usize,
    /// Memory of a part.
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub memory: String,
}

/// A stage: its name, its arguments, and how many parts it has.
struct Stage {
    name: String,
    arguments: String,
    parts: usize,
}

/// A run to be submitted.
struct Run<'a> {
    folder: String,
    id: String,
    parts: usize,
    rounds: usize,
    stages: Vec<Stage>,
    each: &'a EachArgs,
    memory_mib: u64,
}

pub fn submit(args: &SubmitArgs) -> Outcome {
    print::out(
        match &args.command {
            SubmitCommand::Slurm { each, time } => slurm(&Run::new(each)?, &plain(time)?),
            SubmitCommand::Kubernetes { each, image, claim, mount } => {
                kubernetes(&Run::new(each)?, image, claim, mount)?
            }
        }
        .trim_end(),
    )
}

impl<'a> Run<'a> {
    fn new(each: &'a EachArgs) -> Result<Self> {
        let status = job::status(&each.plan)?;
        let path = std::fs::canonicalize(&each.plan).map_err(Error::io(&each.plan, "resolve"))?;
        let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(Path::new("/")) };
        let stage = |name: String, arguments: String, parts| Stage { name, arguments, parts };
        let mut stages = Vec::new();
        for round in 1..=status.rounds {
            stages.push(stage(format!("survey-{round}"), format!("part survey --round {round}"), status.parts));
            stages.push(stage(format!("reduce-{round}"), format!("reduce --round {round}"), 1));
        }
        stages.push(stage("merge".into(), "part merge".into(), status.parts));
        stages.push(stage("commit".into(), "commit".into(), 1));
        let folder = plain(&folder.display().to_string())?;
        let memory_mib = size("--memory", &each.memory)?.div_ceil(1 << 20);
        let (id, parts, rounds) = (status.run, status.parts, status.rounds);
        Ok(Self { folder, id, parts, rounds, stages, each, memory_mib })
    }

    fn head(&self) -> String {
        let Self { folder, parts, rounds, .. } = self;
        format!("# The merge planned in {folder}: {parts} parts, at most {rounds} rounds. Made by `taskvec submit`.\n")
    }

    /// What every command gets besides its own arguments.
    fn limits(&self) -> String {
        format!("--memory {}MiB --num-threads {} --io pread --progress plain", self.memory_mib, self.each.cpus)
    }
}

/// A path that means the same in every shell and in YAML.
fn plain(text: &str) -> Result<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if text.chars().all(fine) && !text.is_empty() {
        return Ok(text.to_owned());
    }
    Err(Error::Usage(format!("{text:?}: submit takes names of letters, digits and /._-+=:@% only")))
}

const SLURM: &str = r#"set -euo pipefail
taskvec=${TASKVEC:-taskvec}
plan=@FOLDER@/plan.json
logs=@FOLDER@/logs
mkdir -p "$logs"

# A job that runs a stage, and again where another try can help (exit 74: I/O, 75: others are not ready).
script() {
    cat <<JOB
#!/usr/bin/env bash
for attempt in 1 2 3; do
    "$taskvec" $* --plan "$plan" @LIMITS@
    code=\$?
    case \$code in 74 | 75) sleep "\${TASKVEC_WAIT:-20}" ;; *) exit \$code ;; esac
done
exit \$code
JOB
}

# submit NAME AFTER ARRAY COMMAND: prints the job's number. Accounts and queues are taken from SBATCH_* variables.
submit() {
    local name=$1 after=$2 array=$3
    shift 3
    script "$@" | sbatch --parsable --requeue --kill-on-invalid-dep=yes --job-name="taskvec-$name" \
        --cpus-per-task=@CPUS@ --mem=@MEM@M --time=@TIME@ --output="$logs/%x-%A_%a.log" \
        ${array:+--array="$array"} ${after:+--dependency="afterok:$after"} | cut -d ';' -f 1
}

"#;

fn slurm(run: &Run<'_>, time: &str) -> String {
    let mut text = format!("#!/usr/bin/env bash\n{}", run.head());
    let fill = [
        ("@FOLDER@", run.folder.clone()),
        ("@LIMITS@", run.limits()),
        ("@CPUS@", run.each.cpus.to_string()),
        ("@MEM@", (run.memory_mib + MARGIN_MIB).to_string()),
        ("@TIME@", time.to_owned()),
    ];
    text.push_str(&fill.iter().fold(SLURM.to_owned(), |text, (mark, value)| text.replace(mark, value)));
    text.push_str("job=\n");
    for stage in &run.stages {
        let array = if stage.name.contains("survey") || stage.name == "merge" {
            format!("0-{}", stage.parts - 1)
        } else {
            "\"\"".to_owned()
        };
        let _ = writeln!(text, "job=$(submit {} \"$job\" {array} {})", stage.name, stage.arguments);
    }
    text.push_str("echo \"submitted; the last job is $job\"\n");
    text
}

const JOB: &str = r#"---
apiVersion: batch/v1
kind: Job
metadata:
  name: taskvec-@ID@-@NAME@
spec:
  completionMode: Indexed
  completions: @PARTS@
  parallelism: @PARTS@
  backoffLimitPerIndex: 5
  podFailurePolicy:
    rules:
    - action: FailJob
      onExitCodes: {operator: In, values: [2, 65, 66, 73, 76]}
    - action: Ignore
      onExitCodes: {operator: In, values: [75]}
    - action: Ignore
      onPodConditions:
      - {type: DisruptionTarget, status: "True"}
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: taskvec
        image: @IMAGE@
        command: [@COMMAND@]
        resources:
          requests: {cpu: @CPUS@, memory: @MEM@Mi}
          limits: {memory: @MEM@Mi}
        volumeMounts:
        - {name: models, mountPath: @MOUNT@}
      volumes:
      - name: models
        persistentVolumeClaim: {claimName: @CLAIM@}
"#;

fn kubernetes(run: &Run<'_>, image: &str, claim: &str, mount: &Path) -> Result<String> {
    let mut text = run.head();
    text.push_str(
        "# A stage that must wait for the one before ends with exit code 75 and is started again by its Job.\n",
    );
    let mount = plain(&mount.display().to_string())?;
    for stage in &run.stages {
        let command = format!("taskvec {} --plan {}/plan.json {}", stage.arguments, run.folder, run.limits());
        let words: Vec<String> = command.split(' ').map(|word| format!("{word:?}")).collect();
        let fill = [
            ("@ID@", run.id.clone()),
            ("@NAME@", stage.name.clone()),
            ("@PARTS@", stage.parts.to_string()),
            ("@IMAGE@", plain(image)?),
            ("@COMMAND@", words.join(", ")),
            ("@CPUS@", run.each.cpus.to_string()),
            ("@MEM@", (run.memory_mib + MARGIN_MIB).to_string()),
            ("@MOUNT@", mount.clone()),
            ("@CLAIM@", plain(claim)?),
        ];
        text.push_str(&fill.iter().fold(JOB.to_owned(), |text, (mark, value)| text.replace(mark, value)));
    }
    Ok(text)
}
