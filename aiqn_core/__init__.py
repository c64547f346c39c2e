"""The paper's models, data, sampling, metrics and training. Works alone, with torch, numpy and jaxtyping."""
