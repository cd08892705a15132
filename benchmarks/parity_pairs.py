"""How far SigLIP and CLIP are from transformers' with the same weights: towers, logits, loss and gradients, as a table.

    python benchmarks/parity_pairs.py

Tiny models whose every parameter is stirred, read as published ones are: their folder, with a tokenizer beside.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from history import append

HOME = Path(__file__).parents[1]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).detach().norm() / theirs.detach().norm())


def measure(name: str, theirs: Any, folder: Path) -> dict[str, float]:
    """The relative errors of one model, by what is compared."""
    import test_image_text as tests
    from oracles import stir

    from vitrail.assembly.model import assemble_model
    from vitrail.assembly.pretrained import find_weights, load_origin
    from vitrail.recipe import InitConfig

    stir(theirs)
    theirs.save_pretrained(folder)
    tests.save_tokenizer(folder / "tokenizer.json")
    origin = find_weights(InitConfig(str(folder)))
    assert origin is not None
    assert origin.recipe is not None
    bundle = assemble_model(origin.recipe, ())
    load_origin(bundle, origin, InitConfig())
    net: Any = bundle.model.eval()
    batch = tests.batch()
    expected = theirs.eval()(input_ids=batch.targets, pixel_values=batch.inputs, return_loss=True)
    expected.loss.backward()
    images, texts = net(batch.inputs), net.embed_tokens(batch.targets)
    loss = torch.stack(list(bundle.task.loss(net, batch).values())).sum()
    loss.backward()
    own, pairs = dict(net.named_parameters()), []
    for ours, other in (
        ("text.tokens.weight", "text_model.embeddings.token_embedding.weight"),
        ("text.blocks.0.mlp.fc1.weight", "text_model.encoder.layers.0.mlp.fc1.weight"),
        ("backbone.blocks.0.mlp.fc1.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"),
        ("log_scale", "logit_scale"),
    ):
        pairs.append(relative(own[ours].grad.flatten(), theirs.get_parameter(other).grad.flatten()))
    return {
        "images": relative(images, expected.image_embeds), "texts": relative(texts, expected.text_embeds),
        "logits": relative(net.compare(images, texts), expected.logits_per_image),
        "loss": float((loss - expected.loss).abs() / expected.loss.abs()), "gradients": max(pairs),
    }  # fmt: skip


def main() -> int:
    sys.path[:0] = [str(HOME / "tests"), str(HOME / "tests" / "weights")]
    import test_image_text as tests

    torch.manual_seed(0)
    rows = {}
    for name, make in tests.MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(name, make(), Path(folder))
    heads = list(next(iter(rows.values())))
    print(f"| model | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[key]:.1e}' for key in heads)} |")
    append("parity_pairs", {key: max(row[key] for row in rows.values()) for key in heads})
    return 0 if max(max(row.values()) for row in rows.values()) <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
