#!/bin/sh
# Takes out of the CPU image's environment what serving never uses, and byte-compiles what it does:
#   slim.sh /opt/lungseg
# Tests and test programs, headers and type stubs, OpenVINO's drivers of devices that are not there and its readers of
# other model formats. Of the largest packages only what a mask needs is compiled, since nothing can be
# compiled later: the root file system is read-only.
set -eu
python=$1/bin/python
cd "$1"/lib/python3*/site-packages
rm -r torch/include torch/test
find torch/bin -mindepth 1 ! -name torch_shm_manager -delete
rm openvino/libs/libopenvino_intel_gpu_plugin.so openvino/libs/libopenvino_intel_npu_plugin.so \
    openvino/libs/cache.json
find openvino/libs -name 'libopenvino_*_frontend.so*' ! -name 'libopenvino_ir_*' -delete
rm -r openvino/include openvino/cmake
find . -type d -name tests -prune -exec rm -r {} +
rm -r pydicom/data/test_files
"$python" -c 'import json, pathlib
for path in pathlib.Path("highdicom/_standard").glob("*.json"):
    path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")))'
find . -type f \( -name '*.pyi' -o -name '*.h' -o -name '*.hpp' -o -name '*.a' \) -delete
"$python" -m compileall -q -x '/(torch|torchgen|functorch|sympy|networkx|mpmath|openvino|setuptools)/' .
golden=$(echo "$PWD"/model_store/models/*/*/golden_image.png)
cd /tmp
"$python" -m service.segment_file --image_path "$golden" > /dev/null
