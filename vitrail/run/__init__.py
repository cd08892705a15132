"""The composition root: a recipe becomes a run. Only here is everything put together."""
