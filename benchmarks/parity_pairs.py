"""How far SigLIP and CLIP are from those of transformers and of OpenCLIP with the same weights: towers, logits, loss
and the gradient of every parameter, as a table.

    python benchmarks/parity_pairs.py

Tiny models whose every parameter is stirred, read as published ones are: their folder, with a tokenizer beside.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from history import append
from torch import Tensor

HOME = Path(__file__).parents[1]


class Answer(NamedTuple):
    """What the other library has of a batch; embeddings are of unit length."""

    images: Tensor
    texts: Tensor
    logits: Tensor
    loss: Tensor


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().norm() / theirs.detach().norm())


def measure(theirs: Any, answer: Answer, folder: Path) -> dict[str, float]:
    """The relative errors of one model, by what is compared; of gradients the largest of any parameter."""
    import test_image_text as tests

    from vitrail.assembly.model import assemble_model
    from vitrail.assembly.pretrained import find_weights, load_origin
    from vitrail.recipe import InitConfig

    origin = find_weights(InitConfig(str(folder)))
    assert origin is not None
    assert origin.recipe is not None
    bundle = assemble_model(origin.recipe, ())
    load_origin(bundle, origin, InitConfig())
    net: Any = bundle.model.eval()
    batch = tests.batch()
    answer.loss.backward()
    images, texts = net(batch.inputs), net.embed_tokens(batch.targets)
    loss = torch.stack(list(bundle.task.loss(net, batch).values())).sum()
    loss.backward()
    pairs = tests.gradients(theirs, net, folder)
    return {
        "images": relative(images, answer.images), "texts": relative(texts, answer.texts),
        "logits": relative(net.compare(images, texts), answer.logits), "loss": relative(loss, answer.loss),
        "gradients": max(relative(ours, other) for ours, other in pairs.values()), "parameters": len(pairs),
    }  # fmt: skip


def transformers_models(folder: Path) -> Iterator[tuple[str, Any, Answer, Path]]:
    import test_image_text as tests
    from oracles import stir

    for name, make in tests.MODELS.items():
        theirs, own = make(), folder / name
        stir(theirs)
        theirs.save_pretrained(own)
        tests.save_tokenizer(own / "tokenizer.json")
        batch = tests.batch()
        out = theirs.eval()(input_ids=batch.targets, pixel_values=batch.inputs, return_loss=True)
        answer = Answer(out.image_embeds, out.text_embeds, out.logits_per_image, out.loss)
        yield f"transformers: {name}", theirs, answer, own


def open_clip_models(folder: Path) -> Iterator[tuple[str, Any, Answer, Path]]:
    import open_clip_models as models
    import test_image_text as tests

    for name, config in models.CONFIGS.items():
        theirs, own = models.build(config), folder / name
        models.save(theirs, config, own)
        batch = tests.batch()
        loss, out = models.loss_of(theirs, batch)
        logits = theirs.get_logits(batch.inputs, batch.targets)[0]
        yield f"OpenCLIP: {name}", theirs, Answer(out["image_features"], out["text_features"], logits, loss), own


def main() -> int:
    sys.path[:0] = [str(HOME / "tests"), str(HOME / "tests" / "weights")]
    torch.manual_seed(0)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for models, part in ((transformers_models, "transformers"), (open_clip_models, "open_clip")):
            for name, theirs, answer, own in models(Path(folder, part)):
                rows[name] = measure(theirs, answer, own)
    heads = [head for head in next(iter(rows.values())) if head != "parameters"]
    print(f"| model | {' | '.join(heads)} | parameters |\n|---|{'---|' * len(heads)}---|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[key]:.1e}' for key in heads)} | {row['parameters']} |")
    append("parity_pairs", {key: max(row[key] for row in rows.values()) for key in heads})
    return 0 if max(row[key] for row in rows.values() for key in heads) <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
