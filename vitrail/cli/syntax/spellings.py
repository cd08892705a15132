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
    "--device": "accelerator gpu",
    "--device cuda": "cuda",
    "--device cpu": "no-cuda cpu",
    "--train.compile": "torchcompile torch-compile",
    "--data.fraction": "fraction limit-train-batches",
    "--train.patience": "early-stopping-patience patience",
    "--train.eval-every": "eval-steps val-check-interval",
    "--train.eval-every (in steps)": "eval-interval val-interval",
    "--lr": "learning-rate lr0 base-lr blr max-lr",
    "--weight-decay": "wd",
    "--optim.name": "optimizer opt",
    "--optim.eps": "opt-eps adam-epsilon",
    "--optim.betas": "opt-betas adam-beta1 adam-beta2",
    "--optim.schedule": "lr-scheduler lr-scheduler-type sched scheduler",
    "--optim.schedule cosine": "cos-lr",
    "--optim.warmup-steps (in steps)": "warmup-epochs lr-warmup-epochs warmup-ratio",
    "--optim.warmup-steps": "warmup-steps warmup-iters num-warmup-steps",
    "--optim.min-lr-ratio (a share of --lr)": "min-lr lr-min",
    "--optim.min-lr-ratio": "lrf",
    "--optim.clip-grad": "clip-grad clip-grad-norm max-grad-norm grad-clip gradient-clip-val",
    "--optim.layer-decay": "llrd",
    "--optim.freeze": "freeze-layers",
    "--optim.freeze backbone": "freeze-backbone",
    "--optim.ema-decay": "model-ema model-ema-decay ema-decay",
    "--augment.hflip": "hflip fliplr horizontal-flip",
    "--augment.vflip": "vflip flipud",
    "--augment.color-jitter": "color-jitter hsv-v",
    "--augment.auto-augment": "aa auto-augment",
    "--augment.randaugment-ops": "rand-augment",
    "--augment.magnitude": "ra-magnitude",
    "--augment.random-erasing": "reprob random-erase random-erasing erasing",
    "--augment.mixup": "mixup-alpha",
    "--augment.cutmix": "cutmix-alpha",
    "--augment.mix-prob": "mixup-prob",
    "--augment.cutmix-prob": "mixup-switch-prob",
    "--augment.mix-mode": "mixup-mode",
    "--augment.repeated-aug": "aug-repeats ra-reps",
    "--augment.repeated-aug 3": "ra-sampler repeated-aug",
    "--task.smoothing": "label-smoothing label-smoothing-factor",
    "--model.dropout": "drop drop-rate",
    "--model.drop-path": "drop-path-rate",
    "--runtime.micro-batch (images at a time)": (
        "grad-accum-steps gradient-accumulation-steps accum-iter accumulate-grad-batches"
    ),
    "--runtime.grad-checkpoint": "gradient-checkpointing grad-checkpointing",
    "--runtime.log-every": "log-interval logging-steps log-every-n-steps print-freq",
    "--runtime.save-every": "save-steps",
    "--runtime.save-every (in steps)": "save-period save-freq",
    "--runtime.keep-checkpoints": "checkpoint-hist save-total-limit",
    "--runtime.tensorboard (or --runtime.wandb, --runtime.mlflow)": "report-to logger log-tb",
    "--runtime.wandb": "wandb use-wandb log-wandb wandb-project",
    "--runtime.mlflow": "mlflow use-mlflow log-mlflow",
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
