"""What llama.cpp's architectures are called in published terms: keys of config.json, names and values of tensors."""
