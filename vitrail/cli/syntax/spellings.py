"""What timm, ultralytics, transformers, torchvision's references and Lightning call a flag: answered with ours."""

SPELLINGS = {  # ours, with a remark where it means something slightly different: theirs
    "--data": "data-dir data-path data-root dataset dataset-name train-dir root",
    "--model": "arch architecture model-name model-name-or-path net backbone",
    "--weights": "pretrained initial-checkpoint checkpoint pretrained-path ckpt",
    "--resume": "resume-from-checkpoint resume-from ckpt-path continue",
    "--out": (
        "output output-dir out-dir outdir save-dir work-dir logdir log-dir experiment project default-root-dir name"
    ),
    "--task.classes": "num-classes",
    "--epochs": "num-epochs max-epochs num-train-epochs nepochs",
    "--steps": "max-steps iterations num-steps max-iters iters train-iters num-inference-steps",
    "--batch-size": "batch bs batchsize train-batch-size global-batch-size",
    "--batch-size (of all processes together)": "per-device-train-batch-size per-gpu-batch-size batch-size-per-gpu",
    "--img-size": "imgsz image-size input-size size resolution train-crop-size val-crop-size crop-size img",
    "--input.crop-ratio": "crop-pct",
    "--input.crop-ratio (a ratio)": "val-resize-size",
    "--seed": "random-seed seed-everything manual-seed",
    "--workers": "num-workers dataloader-num-workers j",
    "--precision": "dtype amp-dtype mixed-precision",
    "--precision bf16": "amp native-amp bf16",
    "--precision fp16": "fp16 half",
    "--device": "accelerator gpu gpus",
    "--device cuda": "cuda",
    "--device cpu": "no-cuda cpu",
    "--plan.compile": "torchcompile torch-compile",
    "--plan.share": "fraction limit-train-batches",
    "--plan.patience": "early-stopping-patience patience",
    "--plan.eval-every": "eval-steps val-check-interval",
    "--plan.eval-every (in steps)": "eval-interval val-interval",
    "--lr": "learning-rate lr0 base-lr blr max-lr",
    "--weight-decay": "wd",
    "--optim.kind": "optimizer opt",
    "--optim.eps": "opt-eps adam-epsilon",
    "--optim.betas": "opt-betas adam-beta1 adam-beta2",
    "--optim.schedule": "lr-scheduler lr-scheduler-type sched scheduler",
    "--optim.schedule cosine": "cos-lr",
    "--optim.warmup (in steps)": "warmup-epochs lr-warmup-epochs warmup-ratio",
    "--optim.warmup": "warmup-steps warmup-iters num-warmup-steps",
    "--optim.final (a share of --lr)": "min-lr lr-min",
    "--optim.final": "lrf",
    "--optim.clip": "clip-grad clip-grad-norm max-grad-norm grad-clip gradient-clip-val",
    "--optim.layer-decay": "llrd",
    "--optim.freeze": "freeze-layers",
    "--optim.freeze backbone": "freeze-backbone",
    "--optim.ema": "model-ema model-ema-decay ema-decay",
    "--augment.flip": "hflip fliplr horizontal-flip",
    "--augment.flip-vertical": "vflip flipud",
    "--augment.jitter": "color-jitter hsv-v",
    "--augment.policy": "aa auto-augment",
    "--augment.randaugment": "rand-augment",
    "--augment.magnitude": "ra-magnitude",
    "--augment.erase": "reprob random-erase random-erasing erasing",
    "--augment.mixup": "mixup-alpha",
    "--augment.cutmix": "cutmix-alpha",
    "--augment.mix-share": "mixup-prob",
    "--augment.mix-switch": "mixup-switch-prob",
    "--augment.mix-each": "mixup-mode",
    "--augment.repeats": "aug-repeats ra-reps",
    "--augment.repeats 3": "ra-sampler repeated-aug",
    "--task.smoothing": "label-smoothing label-smoothing-factor",
    "--model.dropout": "drop drop-rate",
    "--model.drop-path": "drop-path-rate",
    "--machine.micro (images at a time)": (
        "grad-accum-steps gradient-accumulation-steps accum-iter accumulate-grad-batches"
    ),
    "--machine.grad-checkpoint": "gradient-checkpointing grad-checkpointing",
    "--machine.log-every": "log-interval logging-steps log-every-n-steps print-freq",
    "--machine.save-every": "save-steps",
    "--machine.save-every (in steps)": "save-period save-freq",
    "--machine.keep": "checkpoint-hist save-total-limit",
    "--machine.tensorboard": "report-to log-tb",
    "--score": "conf threshold",
    "--top": "topk",
    "--guidance": "cfg-scale guidance-scale",
    "--count": "num-samples",
    "--new-head": "leave-head",
    "--no-strict": "not-strict",
    "--licence": "license",
}


def spelling(flag: str) -> str:
    """Our flag for that of another tool, with a remark where it means something slightly different; "" if unknown.

    >>> spelling("--imgsz"), spelling("--no_such_flag")
    ('--img-size', '')
    """
    name = flag.lstrip("-").replace("_", "-").lower()
    return next((ours for ours, theirs in SPELLINGS.items() if name in theirs.split()), "")
