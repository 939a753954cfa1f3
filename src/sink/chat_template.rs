//! The chat template of the output, in Jinja as transformers reads it.

use super::side_files::TOKENIZER_CONFIG;
use crate::limits::SIDE_FILE_MAX_BYTES;
use crate::recipe::ChatTemplate;
use crate::source::{Links, check_link, read_small};
use crate::tensor::is_url;
use std::path::Path;

/// Where transformers looks for it.
pub const NAME: &str = "chat_template.jinja";

/// The template's text. For `auto` the one that most of the models in `folders` have, of equals the first; `None` if
/// none has one.
pub fn chat_template(template: &ChatTemplate, folders: &[&Path], links: Links) -> Option<String> {
    match template {
        ChatTemplate::Text(text) => Some(text.clone()),
        ChatTemplate::Named(name) => Some(format(name).to_owned()),
        ChatTemplate::Auto => {
            let all: Vec<String> = folders.iter().filter_map(|f| of_model(f, links)).collect();
            let votes = |text: &String| all.iter().filter(|t| *t == text).count();
            all.iter().rev().max_by_key(|t| votes(t)).cloned()
        }
    }
}

/// The template of the model in `folder`.
fn of_model(folder: &Path, links: Links) -> Option<String> {
    if let Some(text) = read(folder, NAME, links) {
        return String::from_utf8(text).ok();
    }
    let config = read(folder, TOKENIZER_CONFIG, links)?;
    let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
    let template = &config["chat_template"];
    let default = || template.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str();
    template.as_str().or_else(default).map(str::to_owned)
}

/// A small file of a model; no link that leaves the model is followed, unless all are.
fn read(folder: &Path, name: &str, links: Links) -> Option<Vec<u8>> {
    let path = folder.join(name);
    if is_url(&path) {
        return read_small(folder, name, links, SIDE_FILE_MAX_BYTES).ok()?;
    }
    check_link(folder, &path, links).ok()?;
    let file = std::fs::metadata(&path).ok()?;
    (file.is_file() && file.len() <= SIDE_FILE_MAX_BYTES).then(|| std::fs::read(&path).ok())?
}

fn format(name: &str) -> &'static str {
    match name {
        "alpaca" => ALPACA,
        "chatml" => CHATML,
        "exaone" => EXAONE,
        "llama3" => LLAMA3,
        _ => MISTRAL,
    }
}

/// <https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md>
const CHATML: &str = "\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
";

/// <https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/>
const LLAMA3: &str = "\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif -%}
";

/// <https://github.com/tatsu-lab/stanford_alpaca#data-release>, without its fixed preamble, which a system message gives.
const ALPACA: &str = "\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ '### Instruction:\\n' + message['content'] | trim + '\\n\\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ '### Response:\\n' + message['content'] | trim + eos_token + '\\n\\n' }}
{%- else -%}
{{ message['content'] | trim + '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\\n' }}
{%- endif -%}
";

/// <https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-chat_templates>, the first version. There is no
/// system role: its text goes before that of the first user.
const MISTRAL: &str = "\
{{- bos_token -}}
{%- set state = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set state.system = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{ ' [INST] ' + state.system + message['content'] + ' [/INST]' }}
{%- set state.system = '' -%}
{%- else -%}
{{ ' ' + message['content'] + eos_token }}
{%- endif -%}
{%- endfor -%}
";

/// <https://huggingface.co/LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct>
const EXAONE: &str = "\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{ '[|system|][|endofturn|]\\n' }}
{%- endif -%}
{{ '[|' + message['role'] + '|]' + message['content'] + ('\\n' if message['role'] == 'user' else '[|endofturn|]\\n') }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '[|assistant|]' }}
{%- endif -%}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_behind_a_link_that_leaves_the_model_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let (model, secret) = (root.path().join("model"), root.path().join("secret"));
        std::fs::create_dir(&model).unwrap();
        std::fs::write(&secret, "{{ secret }}").unwrap();
        std::os::unix::fs::symlink(&secret, model.join(NAME)).unwrap();
        let taken = |links| chat_template(&ChatTemplate::Auto, &[&model], links);
        assert_eq!(taken(Links::Inside), None);
        assert_eq!(taken(Links::All).as_deref(), Some("{{ secret }}"));
    }
}
