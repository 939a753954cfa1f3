#!/usr/bin/env python3
"""Whether the named chat templates render conversations as their formats' documents show them, through transformers.

    check_chat_templates.py TASKVEC      (python with transformers; merges fixtures/tokenizer)"""
import os
import subprocess
import sys
import tempfile

from transformers import AutoTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHORT = [{"role": "user", "content": "Hi"}]
LONG = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]
# (format, conversation, with the prompt for an answer) -> text. <s> and </s> are the fixtures' own.
EXPECTED = [
    ("chatml", SHORT, True, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    ("chatml", LONG, False, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
     "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"),
    ("chatml", LONG[:3], False, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
     "<|im_start|>assistant\nHello.<|im_end|>\n"),
    ("llama3", SHORT, True, "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("llama3", LONG, True, "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
     "Hello.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("llama3", LONG[:3], False, "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
     "Hello.<|eot_id|>"),
    ("alpaca", SHORT, True, "### Instruction:\nHi\n\n### Response:\n"),
    ("alpaca", LONG, True, "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>\n\n"
     "### Instruction:\nBye\n\n### Response:\n"),
    ("alpaca", LONG[:2], False, "Be brief.\n\n### Instruction:\nHi\n\n"),
    ("mistral", SHORT, True, "<s> [INST] Hi [/INST]"),
    ("mistral", LONG, True, "<s> [INST] Be brief.\n\nHi [/INST] Hello.</s> [INST] Bye [/INST]"),
    ("mistral", LONG[1:3], False, "<s> [INST] Hi [/INST] Hello.</s>"),
    ("exaone", SHORT, True, "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]"),
    ("exaone", LONG, True, "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello.[|endofturn|]\n"
     "[|user|]Bye\n[|assistant|]"),
    ("exaone", LONG[:3], False, "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello.[|endofturn|]\n"),
]


def main():
    taskvec, = sys.argv[1:]
    model = os.path.join(ROOT, "fixtures", "tokenizer", "base")
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted({case[0] for case in EXPECTED}):
            recipe = os.path.join(folder, f"{name}.yml")
            with open(recipe, "w") as file:
                file.write(f"merge_method: linear\nmodels: [{{model: {model}, parameters: {{weight: 1}}}}]\n"
                           f"chat_template: {name}\n")
            subprocess.run([taskvec, "merge", recipe, os.path.join(folder, name), "--quiet"], check=True)
        for name, conversation, prompt, want in EXPECTED:
            tokenizer = AutoTokenizer.from_pretrained(os.path.join(folder, name))
            got = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)
            assert got == want, (name, got, want)
    print(f"{len(EXPECTED)} conversations render as their formats' documents show them")


main()
