#!/bin/sh
# Puts libtorch (PyTorch 2.11.0) where .cargo/config.toml looks for it: .libtorch at the root of the workspace.
#   train/get-libtorch.sh            from PyTorch's wheel, the parts for the CPU (any Python 3.8 or newer with pip; 0.6 GB)
#   train/get-libtorch.sh --python   the torch that is installed in the current python3 (for machines with CUDA)
# An exported LIBTORCH wins over both.
set -eu
cd "$(dirname "$0")/.."
version=2.11.0
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "get-libtorch: $python is missing; install Python 3 with pip, or set PYTHON" >&2; exit 1; }
if [ "${1:-}" = --python ]; then
    dir=$("$python" -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")')
    [ -n "$dir" ] || { echo "get-libtorch: $python has no torch; pip install torch==$version" >&2; exit 1; }
    have=$(sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$dir/version.py")
    [ "$have" = "$version" ] || { echo "get-libtorch: $dir is PyTorch $have, needed is $version (pip install torch==$version)" >&2; exit 1; }
    ln -sfn "$dir" .libtorch
    exit 0
fi
out=target/libtorch-$version
if [ ! -e "$out/complete" ]; then
    case "$(uname -s)-$(uname -m)" in
    Linux-*) arch=$(uname -m)
        platforms="--platform manylinux_2_28_$arch --platform manylinux_2_25_$arch --platform manylinux_2_17_$arch --platform manylinux2014_$arch"
        # libc10 and libtorch_cpu of the Linux wheel are linked against these two; nothing of them runs without a GPU.
        packages="nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85" ;;
    Darwin-arm64) platforms="--platform macosx_11_0_arm64"; packages= ;;
    *) echo "get-libtorch: PyTorch has no wheel for $(uname -sm); build libtorch $version and export LIBTORCH" >&2; exit 1 ;;
    esac
    echo "fetching PyTorch $version into $out (once)" >&2
    rm -rf "$out"; mkdir -p "$out"
    # shellcheck disable=SC2086 # the lists are meant to split
    # A variable, since older pips know no such option.
    PIP_ROOT_USER_ACTION=ignore "$python" -m pip install -q --disable-pip-version-check --no-deps --no-compile --only-binary=:all: \
        --python-version 3.12 $platforms --target "$out" "torch==$version" $packages
    (
        cd "$out/torch"
        find . -mindepth 1 -maxdepth 1 ! -name lib ! -name include ! -name version.py -exec rm -rf {} +
        cd lib
        rm -f libtorch_cuda*.so libtorch_nvshmem.so libtorch_python.* libcaffe2_nvrtc.so libc10_cuda.so
        # The wheel's libtorch.so would ask for libtorch_cuda.so; a linker script leads to the CPU's part alone.
        if [ -e libtorch.so ]; then rm libtorch.so; echo 'INPUT(libtorch_cpu.so)' >libtorch.so; fi
    )
    touch "$out/complete"
fi
ln -sfn "$out/torch" .libtorch
