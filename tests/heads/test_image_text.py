"""Two towers whose embeddings are compared, and the tokenizer that travels with them."""

import dataclasses

import pytest
import torch

from vitrail.data.texts.tokenizer import train_tokenizer
from vitrail.errors import CheckpointError
from vitrail.heads.image_text import ImageTextConfig, ImageTextModel, prompt_texts
from vitrail.models import _text, vit

VIT = vit.Config(width=32, depth=1, heads=2, patch=8, size=(16, 16))
WORDS = train_tokenizer(["a red car", "a blue cat"], 300, 8)


def build(outputs=0, words=WORDS, **changes):
    torch.manual_seed(0)
    config = _text.Config(width=32, depth=1, heads=2, vocabulary=300, context=8, outputs=outputs or 32)
    own = ImageTextConfig(outputs, tokenizer_size=words.facts.size, tokenizer_hash=words.facts.sha256)
    return ImageTextModel(vit.build(VIT), _text.build(config), dataclasses.replace(own, **changes))


def test_embeddings_have_unit_length_in_either_mode():
    model, images = build(outputs=24), torch.randn(3, 3, 16, 16)
    model.tokenizer.fill(WORDS)
    for net in (model.train(), model.eval()):
        torch.testing.assert_close(net(images).norm(dim=1), torch.ones(3))
    texts = model.train().embed_texts(["a red car", "", "кот"])
    assert texts.shape == (3, 24)
    assert model.training
    assert not texts.requires_grad
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    assert model.embed_texts([]).shape == (0, 24)
    with torch.no_grad():
        logits = model.compare(model(images), texts)
    torch.testing.assert_close(logits, 10 * model(images).detach() @ texts.T - 10)


def test_without_a_projection_texts_have_the_width_of_the_images():
    model = build(bias=None)
    assert not list(model.proj.parameters())
    assert model.bias is None
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 32)


def test_the_tokenizer_is_a_tensor_of_the_model():
    model = build()
    model.tokenizer.fill(WORDS)
    other = build()
    with pytest.raises(CheckpointError, match="another model"):  # its bytes are still zeros
        other.embed_texts(["cat"])
    other.load_state_dict(model.state_dict())
    assert other.tokenizer.open().content == WORDS.content
    torch.testing.assert_close(other.eval().embed_texts(["cat"]), model.eval().embed_texts(["cat"]))


def test_another_tokenizer_is_refused():
    model, strange = build(), train_tokenizer(["something else"], 300, 8)
    with pytest.raises(CheckpointError, match="the tokenizer of another model"):
        model.tokenizer.fill(strange)


def test_classes_are_the_mean_of_their_prompts():
    assert prompt_texts(["cat", "dog"], ("a photo of a {}", "my")) == [
        "a photo of a cat", "my cat", "a photo of a dog", "my dog",
    ]  # fmt: skip
    assert prompt_texts(["{}"], ()) == ["{}"]
    model = build()
    model.tokenizer.fill(WORDS)
    found = model.embed_classes(["cat", "car"], ("a {}", "the {}"))
    mean = model.embed_texts(["a car", "the car"]).mean(0)
    torch.testing.assert_close(found[1], mean / mean.norm())
