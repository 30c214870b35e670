"""Training in PyTorch: float models, the classifier of the quality measures, distillation of the 4-bit network.

The only package that needs PyTorch (the extra `train`); nothing else imports it. What it makes is in `golden/data/`.
"""
