"""Training of stored models: data, augmentation, AdaLoRA, fake quantization, evaluation.

It writes into ``model_store`` and never imports ``service``.
"""
