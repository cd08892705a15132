"""What a training on many GPUs will take: by formulas, before anybody reserves them."""
