"""Triton kernels of the integer encoder; each file holds one kernel and the call that starts it.

They run compiled on a GPU and, with ``TRITON_INTERPRET=1``, line by line on CPU tensors, which is
how they are tested where there is no GPU. All are started with ``enable_fp_fusion=False``: a fused
multiplication and addition rounds once instead of twice. A layer's output would then differ from
the definition in `model_store.integers` in its last bit.
"""
