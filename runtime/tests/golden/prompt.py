#!/usr/bin/env python3
"""Goldens of conversation prompts for src/prompt/tests.rs.

Run with sentencepiece 0.2 and jinja2 3:  python prompt.py LLAMA_TOKENIZER_MODEL LLAVA_CONVERSATION_PY
(the second is llava/conversation.py of LLaVA's repository, which is the oracle of its templates).
Writes  prompt.jsonl   template, turns, answers, the prompt LLaVA makes, and its ids (legacy form; -200 - n for picture n)
        chat.jsonl     Jinja templates of other models: template, system, turns, answers, what jinja2 prints
"""
import importlib.util, json, os, re, sys

HERE = os.path.dirname(os.path.abspath(__file__))

CASES = [
    ([("What is this?", 1)], []),
    ([("Hello there.", 0)], []),
    ([("What is this?", 1), ("And what colour is it?", 0)], ["A cat."]),
    ([(" spaced  out \n", 1), ("</s> and <s>?", 0), ("Why ###?", 0)], ["It is\n1. a cat\n2. a mat", "No."]),
]
NAMES = ["llava_v1", "v1", "llava_v0", "v0", "v0_mmtag", "v1_mmtag", "llava_llama_2", "mpt"]


def ids(p, prompt, injected):
    """tokenizer_image_token over the legacy slow tokenizer: each text between <image>, <s> and </s> is a fresh text.
    `injected` protects words that a person typed: they never become tokens."""
    out, n = [1], 0
    for part in re.split(r"(<image>|</s>|<s>)", prompt):
        if part == "<image>":
            out.append(-200 - n); n += 1
        elif part in ("</s>", "<s>"):
            out.append(2 if part == "</s>" else 1)
        else:
            out += p.encode(part.replace(injected[0], "</s>").replace(injected[1], "<s>"))
    return out


def llava(model, conversation):
    import sentencepiece as spm
    p = spm.SentencePieceProcessor(model_file=model)
    spec = importlib.util.spec_from_file_location("conversation", conversation)
    m = importlib.util.module_from_spec(spec); sys.modules["conversation"] = m; spec.loader.exec_module(m)
    marks = ("\ue000", "\ue001")  # typed "</s>" and "<s>", kept apart from the template's own
    with open(os.path.join(HERE, "prompt.jsonl"), "w") as f:
        for name in NAMES:
            for turns, answers in CASES:
                c = m.conv_templates[name].copy()
                for i, (text, images) in enumerate(turns):
                    safe = text.replace("</s>", marks[0]).replace("<s>", marks[1])
                    if "mmtag" in name and images:
                        c.append_message(c.roles[0], "<Image><image></Image>"); c.append_message(c.roles[1], "Received.")
                        c.append_message(c.roles[0], safe)
                    else:
                        c.append_message(c.roles[0], "<image>\n" * images + safe)
                    c.append_message(c.roles[1], answers[i] if i < len(answers) else None)
                made = c.get_prompt()
                text = made.replace(marks[0], "</s>").replace(marks[1], "<s>")
                print(json.dumps(dict(template=name, turns=turns, answers=answers, prompt=text, ids=ids(p, made, marks))), file=f)


# Templates in the manner of the models named, written for this test.
CHAT = {
    "llama-3": "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral": "{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] %}\n    {%- set rest = messages[1:] %}\n{%- else %}\n    {%- set rest = messages %}\n{%- endif %}\n{{- bos_token }}\n{%- for message in rest %}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n        {{- raise_exception('roles must alternate') }}\n    {%- endif %}\n    {%- if message['role'] == 'user' %}\n        {%- if loop.first and system is defined %}\n            {{- '[INST] ' + system + '\n\n' + message['content'] + ' [/INST]' }}\n        {%- else %}\n            {{- '[INST] ' + message['content'] + ' [/INST]' }}\n        {%- endif %}\n    {%- else %}\n        {{- ' ' + message['content'].strip() + eos_token }}\n    {%- endif %}\n{%- endfor %}\n",
    "chatml": "{% for message in messages %}\n{{'<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n'}}\n{% endfor %}\n{% if add_generation_prompt %}\n{{- '<|im_start|>assistant\n' -}}\n{% endif %}\n",
    "llava-hf": "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
}


def chat():
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    def fail(text): raise ValueError(text)
    env.globals["raise_exception"] = fail
    with open(os.path.join(HERE, "chat.jsonl"), "w") as f:
        for name, source in CHAT.items():
            t = env.from_string(source.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
            for system in (None, "Be brief."):
                for turns, answers in CASES:
                    messages = [dict(role="system", content=system)] if system else []
                    for i, (text, images) in enumerate(turns):
                        if name == "llava-hf":
                            messages.append(dict(role="user", content=[dict(type="image")] * images + [dict(type="text", text=text)]))
                        else:
                            messages.append(dict(role="user", content="<image>\n" * images + text))
                        if i < len(answers):
                            messages.append(dict(role="assistant", content=answers[i]))
                    for m in messages:
                        if name == "llava-hf" and isinstance(m["content"], str):
                            m["content"] = [dict(type="text", text=m["content"])]
                    text = t.render(messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True)
                    print(json.dumps(dict(name=name, source=source, system=system, turns=turns, answers=answers, prompt=text)), file=f)


if __name__ == "__main__":
    llava(sys.argv[1], sys.argv[2])
    chat()
