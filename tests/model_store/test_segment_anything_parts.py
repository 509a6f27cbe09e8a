import subprocess
import sys


def test_modeling_loads_without_torchvision_and_leaves_the_real_package_alone() -> None:
    code = (
        "import sys, model_store.segment_anything_parts as parts\n"
        "assert parts.ImageEncoderViT and 'torchvision' not in sys.modules\n"
        "assert 'segment_anything' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
