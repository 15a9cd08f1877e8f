"""The Hugging Face reference, as the tests run it: model, processor, one conversation.

AutoProcessor refuses to load SmolVLM without torchvision, for its video processor; still pictures need none of it. The
PIL image processor (true LANCZOS, the one the released models were trained with) is the reference for every pixel.
"""
import contextlib
import json
import os
import types
import unittest.mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")                # before transformers looks
import torch
import transformers
from PIL import Image, ImageOps
from transformers import AutoModelForCausalLM, AutoTokenizer, Idefics3ForConditionalGeneration, Idefics3Processor
from transformers import SmolVLMForConditionalGeneration, SmolVLMProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil


class _NoVideo:
    num_frames, fps, model_input_names = 64, 1, []


class _Processor(SmolVLMProcessor):
    def check_argument_for_proper_class(self, *args):
        return None


def settle(threads):
    """torch takes so many threads, and transformers says nothing meanwhile."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)


def read_json(directory, name):
    with open(os.path.join(directory, name), encoding="utf-8") as f:
        return json.load(f)


def load_processor(directory):
    """The processor of a SmolVLM or Idefics3 directory; a tokenizer for a text-only one."""
    architecture = read_json(directory, "config.json")["architectures"][0]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if not architecture.endswith("ForConditionalGeneration"):
        return tokenizer
    length = read_json(directory, "processor_config.json")["image_seq_len"]
    template = tokenizer.chat_template
    if os.path.exists(os.path.join(directory, "chat_template.json")):
        template = read_json(directory, "chat_template.json")["chat_template"]
    if architecture.startswith("Idefics3"):
        images = Idefics3ImageProcessorPil.from_pretrained(directory)
        return Idefics3Processor(images, tokenizer, image_seq_len=length, chat_template=template)
    images = SmolVLMImageProcessorPil.from_pretrained(directory)
    return _Processor(images, tokenizer, _NoVideo(), image_seq_len=length, chat_template=template)


def load_model(directory, attention="sdpa", dtype=torch.float32):
    """The model of a directory, in dtype (the weights converted as they are read), for inference."""
    architecture = read_json(directory, "config.json")["architectures"][0]
    kinds = {"SmolVLMForConditionalGeneration": SmolVLMForConditionalGeneration,
             "Idefics3ForConditionalGeneration": Idefics3ForConditionalGeneration}
    kind = kinds.get(architecture, AutoModelForCausalLM)
    return kind.from_pretrained(directory, dtype=dtype, attn_implementation=attention).eval()


def _rms_norm(self, x):
    """LlamaRMSNorm.forward without its detour through float32."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


@contextlib.contextmanager
def float64(model):
    """Within, a float32 model computes in float64, with the same weights: what it would give but for rounding.

    Each module's weights are widened only while it runs, so that a large model does not take twice the memory. Rotary
    cosines and sines stay float32, and so does what the position ids are found with: the reference computes these in
    float32 whatever the model's dtype."""
    def widened(x):
        return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    def widen(module, args, kwargs):
        module.double()
        return tuple(map(widened, args)), {key: widened(value) for key, value in kwargs.items()}

    def narrow(module, args, out):
        module.float()

    hooks, norms = [], []
    for module in model.modules():
        if next(module.children(), None) is None and next(module.parameters(), None) is not None:
            hooks.append(module.register_forward_pre_hook(widen, with_kwargs=True))
            hooks.append(module.register_forward_hook(narrow))
            if type(module).__name__.endswith("RMSNorm"):
                norms.append(module)
                module.forward = types.MethodType(_rms_norm, module)
    try:
        with unittest.mock.patch.object(type(model.model), "dtype", torch.float64):     # what it casts its inputs to
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in norms:
            del module.forward


def open_picture(path):
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def conversation(pictures, prompt, system=None, text_only=False):
    """One question as the chat template takes it: the pictures, then the text."""
    if text_only:
        messages = [{"role": "user", "content": prompt}]
        return ([{"role": "system", "content": system}] if system else []) + messages
    content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    return ([{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []) + messages


def inputs(processor, pictures, prompt, system=None, **kwargs):
    """input_ids and pixel_values of one question about pictures (PIL). kwargs go to the image processor."""
    text_only = not hasattr(processor, "image_processor")
    messages = conversation(pictures, prompt, system, text_only)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if text_only:
        return processor(text, return_tensors="pt", add_special_tokens=False)
    return processor(text=text, images=[pictures] if pictures else None, return_tensors="pt", **kwargs)
