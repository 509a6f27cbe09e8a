"""Makes stored models: data, augmentation, AdaLoRA, fake quantization, one loop, evaluation.

It writes into ``model_store`` and never imports ``service``.
"""
