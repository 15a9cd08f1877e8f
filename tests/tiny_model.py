#!/usr/bin/env python3
"""Tiny random checkpoints in the Hugging Face layout, for the tests: a directory like a published one, but small.

    python tests/tiny_model.py DIR [--kind smolvlm|idefics3|llama|mistral] [--seed 0] [SETTING=VALUE ...]

    config.json  generation_config.json  model.safetensors (or shards and their index)
    tokenizer.json  tokenizer_config.json  preprocessor_config.json  processor_config.json  chat_template.json

Norms and biases are moved away from 1 and 0, so that a forgotten one shows; every matrix keeps the size of what passes
through it (std 1/sqrt(columns)), so that no layer is idle. The tokenizer is trained here, on the text below, with the
tokenizers library; it lacks the bytes that the real one lacks. Needs torch, transformers, tokenizers.
"""
import argparse
import ast
import json
import os

# Every setting and its default. None: left to the library or derived from the others.
SETTINGS = dict(
    vision_hidden_size=32, vision_num_attention_heads=2, vision_num_hidden_layers=2, vision_intermediate_size=72,
    image_size=32, patch_size=8, scale_factor=2, longest_edge=64, do_image_splitting=True,
    image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5), layer_norm_eps=1e-6,
    hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=None, num_hidden_layers=2,
    intermediate_size=88, vocab_size=None, max_position_embeddings=2048, rms_norm_eps=1e-5,
    rope_theta=100000.0, rope_scaling=None, sliding_window=None, tie_word_embeddings=False, eos_token_id=None,
    dtype="float32",            # float32, bfloat16 or float16: what the weights are stored in
    shards=1,                   # more than 1: about so many files and model.safetensors.index.json
    config_generation=4,        # 4: rope_theta flat, torch_dtype, defaults left out; 5: as transformers 5 saves it
    processor_generation=4,     # 4: preprocessor_config.json, chat_template.json; 5: one processor_config.json, .jinja
    v1_tokenizer=False,         # as SmolVLM v1: no <global-img>, no <row_R_col_C>, so these are plain text
    individual_digits=True,     # the Digits pre-tokenizer
    merges=300,                 # how many the tokenizer learns, at most
    chat_template="default",    # the kind's own, None, or a template
)

SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] =="
    " 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text'"
    " %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRAINING_TEXT = """\
A picture flows through the model: it is read, resized and cut into tiles, the tiles become patches, the patches become
tokens, and the tokens become an answer. User: What is in this picture? Describe the image in detail, please.
Assistant: The image shows a small brown dog that is sitting on the grass beside two red chairs, and there's a tree.
You are a helpful assistant. System: answer in one word. I'm sure we've seen that it isn't what they'll say, he'd said.
Wie heißt die Straße? Où est la bibliothèque? El niño comió una manzana. Привет, мир! 你好，世界。 日本語の文字 한국어 🙂🎉
int main(void) { return 0; }    for (int i = 0; i < n; i++) { sum += x[i] * y[i]; }
1 2 3 10 20 300 1999 2024 3.14159 100% $5.00 http://example.com/a_b?c=d&e=f
"""
ABSENT_BYTES = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)]  # SmolLM2's


def make_tokenizer(v1=False, individual_digits=True, merges=300, vision=True):
    """A trained byte-level BPE tokenizer laid out as SmolLM2's: specials first, SmolVLM's added tokens last."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    last = []
    if vision and not v1:
        last += ["<global-img>"] + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    if vision:
        last += ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = byte_level if not individual_digits else \
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    absent = {chr(byte) if byte > 0xAD else chr(0x100 + byte) for byte in ABSENT_BYTES}  # GPT-2's printable alphabet
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - absent)
    tokenizer.train_from_iterator(TRAINING_TEXT.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=len(first) + len(alphabet) + merges, special_tokens=first, initial_alphabet=alphabet,
        show_progress=False))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in last])
    return tokenizer


def make_config(kind, s, n_ids, image_token_id):
    """The transformers configuration of a kind for the settings s."""
    from transformers import Idefics3Config, LlamaConfig, MistralConfig, SmolVLMConfig

    rope = dict(s["rope_scaling"] or {"rope_type": "default"}, rope_theta=s["rope_theta"])
    text = dict(
        hidden_size=s["hidden_size"], intermediate_size=s["intermediate_size"],
        num_hidden_layers=s["num_hidden_layers"], num_attention_heads=s["num_attention_heads"],
        num_key_value_heads=s["num_key_value_heads"], vocab_size=s["vocab_size"] or n_ids, pad_token_id=2,
        head_dim=s["head_dim"] or s["hidden_size"] // s["num_attention_heads"],
        max_position_embeddings=s["max_position_embeddings"], rms_norm_eps=s["rms_norm_eps"], rope_parameters=rope)
    if kind == "mistral":
        return MistralConfig(**text, sliding_window=s["sliding_window"], tie_word_embeddings=s["tie_word_embeddings"])
    if kind == "llama":
        return LlamaConfig(**text, tie_word_embeddings=s["tie_word_embeddings"])
    vision = dict(
        hidden_size=s["vision_hidden_size"], intermediate_size=s["vision_intermediate_size"],
        num_hidden_layers=s["vision_num_hidden_layers"], num_attention_heads=s["vision_num_attention_heads"],
        image_size=s["image_size"], patch_size=s["patch_size"], layer_norm_eps=s["layer_norm_eps"])
    return {"smolvlm": SmolVLMConfig, "idefics3": Idefics3Config}[kind](
        text_config=dict(text, model_type="llama"), vision_config=vision, scale_factor=s["scale_factor"],
        image_token_id=image_token_id, tie_word_embeddings=s["tie_word_embeddings"], pad_token_id=2)


def make_weights(config, seed, dtype):
    """A transformers model with lively random weights in dtype."""
    import torch
    import transformers

    kinds = {"smolvlm": "SmolVLMForConditionalGeneration", "idefics3": "Idefics3ForConditionalGeneration",
             "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
    model = getattr(transformers, kinds[config.model_type])(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.copy_(0.1 * noise + (1 if "norm" in name and name.endswith("weight") else 0))
            elif "embed_tokens" in name or "lm_head" in name:
                p.copy_(2 * noise / p.shape[1] ** 0.5)
            elif "position_embedding" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise / p[0].numel() ** 0.5)
    return model.to(getattr(torch, dtype))


def as_generation_4(config):
    """config.json as transformers 4 wrote it: flat rope_theta, torch_dtype, what equals the default left out."""
    config = dict(config)
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    if "rope_parameters" in config:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope["rope_theta"]
        if rope["rope_type"] != "default":
            config["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    if config.get("text_config"):
        config["text_config"] = as_generation_4(config["text_config"])
        defaults = dict(hidden_size=1152, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=16,
                        num_channels=3, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, attention_dropout=0.0,
                        initializer_range=0.02, dtype=None)
        config["vision_config"] = {k: v for k, v in config["vision_config"].items()
                                   if k not in defaults or (v != defaults[k] and k != "dtype")}
    config["transformers_version"] = "4.47.1"
    return config


def write_json(directory, name, value):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)


def write_processor(directory, kind, s, template):
    """The files of the image processor, the processor and the chat template, of either generation."""
    name = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[kind]
    images = dict(
        do_convert_rgb=True, do_image_splitting=s["do_image_splitting"], do_normalize=True, do_pad=True,
        do_rescale=True, do_resize=True, image_mean=list(s["image_mean"]), image_std=list(s["image_std"]),
        image_processor_type=f"{name}ImageProcessor", max_image_size={"longest_edge": s["image_size"]},
        processor_class=f"{name}Processor", resample=1, rescale_factor=1 / 255,
        size={"longest_edge": s["longest_edge"]})
    processor = dict(image_seq_len=(s["image_size"] // s["patch_size"] // s["scale_factor"]) ** 2,
                     processor_class=f"{name}Processor")
    if s["processor_generation"] == 5:
        write_json(directory, "processor_config.json", dict(processor, image_processor=images))
        if template is not None:
            with open(os.path.join(directory, "chat_template.jinja"), "w", encoding="utf-8") as f:
                f.write(template)
        return
    write_json(directory, "preprocessor_config.json", images)
    write_json(directory, "processor_config.json", processor)
    if template is not None:
        write_json(directory, "chat_template.json", {"chat_template": template})


def make_tiny(directory, seed=0, kind="smolvlm", **overrides):
    """Writes a checkpoint of a kind ("smolvlm", "idefics3", "llama", "mistral") into directory; returns directory.

    overrides: any of SETTINGS. The same arguments give the same files. Raises ValueError for an unknown setting."""
    unknown = set(overrides) - set(SETTINGS)
    if unknown:
        raise ValueError(f"make_tiny has no setting {', '.join(sorted(unknown))}")
    s = dict(SETTINGS, **overrides)
    vision = kind in ("smolvlm", "idefics3")
    tokenizer = make_tokenizer(s["v1_tokenizer"], s["individual_digits"], s["merges"], vision)
    n_ids = tokenizer.get_vocab_size()
    end = "<end_of_utterance>" if vision else "<|im_end|>"
    config = make_config(kind, s, n_ids, tokenizer.token_to_id("<image>"))
    model = make_weights(config, seed, s["dtype"])

    os.makedirs(directory, exist_ok=True)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(directory, max_shard_size=size // s["shards"] + 1 if s["shards"] > 1 else "50GB")
    if s["config_generation"] == 4:
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        write_json(directory, "config.json", as_generation_4(config))
    eos = s["eos_token_id"] if s["eos_token_id"] is not None else tokenizer.token_to_id(end)
    write_json(directory, "generation_config.json", dict(
        _from_model_config=True, bos_token_id=1, eos_token_id=eos, pad_token_id=2, transformers_version="4.47.1"))

    template = s["chat_template"]
    if template == "default":
        template = SMOLVLM_TEMPLATE if vision else SMOLLM2_TEMPLATE
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    words = dict(add_prefix_space=False, bos_token="<|im_start|>", clean_up_tokenization_spaces=False, eos_token=end,
                 model_max_length=s["max_position_embeddings"], pad_token="<|im_end|>",
                 tokenizer_class="GPT2Tokenizer", unk_token="<|endoftext|>")
    if vision:
        words.update(fake_image_token="<fake_token_around_image>", image_token="<image>",
                     end_of_utterance_token=end, processor_class="SmolVLMProcessor")
        if not s["v1_tokenizer"]:
            words.update(global_image_token="<global-img>")
        write_processor(directory, kind, s, template)
    elif template is not None:
        words["chat_template"] = template
    write_json(directory, "tokenizer_config.json", words)
    return directory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="settings: " + ", ".join(f"{k}={v}" for k, v in SETTINGS.items()))
    parser.add_argument("directory")
    parser.add_argument("--kind", default="smolvlm", choices=["smolvlm", "idefics3", "llama", "mistral"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="a Python literal, or a word")
    arguments = parser.parse_args()
    overrides = {}
    for setting in arguments.settings:
        key, _, value = setting.partition("=")
        try:
            overrides[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            overrides[key] = value
    make_tiny(arguments.directory, arguments.seed, arguments.kind, **overrides)


if __name__ == "__main__":
    main()
