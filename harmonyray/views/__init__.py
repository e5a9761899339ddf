"""Ways of posing a problem: each view renders prompts and parses responses.

Nothing here calls a model, and nothing here may import torch, ray, transformers or vllm.
"""
