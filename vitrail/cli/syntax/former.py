"""What sections and keys of recipes were called before 0.1.0: they are answered with what they are called now."""

from vitrail.cli.syntax.flags import flag_of
from vitrail.recipe import SECTIONS

RENAMED = {
    "start": "init", "plan": "train", "machine": "runtime", "start.source": "init.format",
    "input.resize": "input.resize_mode", "augment.resize": "augment.scale_jitter", "augment.flip": "augment.hflip",
    "augment.flip_vertical": "augment.vflip", "augment.randaugment": "augment.randaugment_ops",
    "augment.policy": "augment.auto_augment", "augment.jitter": "augment.color_jitter",
    "augment.erase": "augment.random_erasing", "augment.mix_share": "augment.mix_prob",
    "augment.mix_switch": "augment.cutmix_prob", "augment.mix_each": "augment.mix_mode",
    "augment.repeats": "augment.repeated_aug", "optim.kind": "optim.name", "optim.warmup": "optim.warmup_steps",
    "optim.final": "optim.min_lr_ratio", "optim.clip": "optim.clip_grad", "optim.unfreeze": "optim.unfreeze_steps",
    "optim.ema": "optim.ema_decay", "optim.ema2": "optim.ema_decay_2", "plan.batch": "train.batch_size",
    "plan.grow_from": "train.start_size", "plan.grow_until": "train.full_size_at", "plan.share": "data.fraction",
    "plan.sampling": "data.sampler", "plan.bad": "data.on_error", "plan.bad_budget": "data.max_errors",
    "plan.fingerprint": "data.fingerprint", "machine.micro": "runtime.micro_batch",
    "machine.cache": "runtime.cache_images", "machine.latents": "runtime.latents_dir",
    "machine.keep": "runtime.keep_checkpoints", "machine.judge": "eval.features",
}  # fmt: skip


def renamed(section: str, key: str) -> str:
    """The flag of a key by the name that it had before; "" for any other.

    >>> renamed("input", "resize")
    '--input.resize-mode'
    """
    key = key.replace("-", "_")
    now = RENAMED.get(f"{section}.{key}", "")
    if not now and section in RENAMED and section not in SECTIONS:
        now = f"{RENAMED[section]}.{key}"
    return flag_of(*now.split(".", 1)) if now else ""
