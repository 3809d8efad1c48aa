"""High-resolution synthetic medical images with small lesions, in JAX and Flax."""
