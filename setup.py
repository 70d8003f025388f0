"""Package definition: lower bounds only; launch/constraints.txt pins."""

import setuptools

CORE = [
  "absl-py>=2.1",
  "array-record>=0.8",
  "flatbuffers>=24",
  "flax>=0.12",
  "fsspec>=2024.6",
  "grain>=0.2.15",
  "jax>=0.10",
  "jinja2>=3.1",
  "matplotlib>=3.9",
  "ml-collections>=1.1",
  "numpy>=2.0",
  "optax>=0.2.6",
  "orbax-checkpoint>=0.12",
  "pyarrow>=18",
  "safetensors>=0.4",
  "scikit-learn>=1.5",
  "scipy>=1.14",
  "tensorboard>=2.18",
  "tensorflow-datasets>=4.9.9",
  "tqdm>=4.66",
]
SERVE = [
  "httptools>=0.6",
  "prometheus-client>=0.20",
  "pydantic>=2.8",
  "starlette>=0.40",
  "uvicorn>=0.30",
  "uvloop>=0.20; sys_platform != 'win32'",
]
TEST = [
  *SERVE,
  "chex>=0.1.91",
  "httpx>=0.27",
  "jsonschema-rs>=0.30",
  "mypy>=1.13",
  "pytest>=8",
  "pytest-xdist>=3.6",
  "pyyaml>=6",
  "ruff>=0.8",
  "schemathesis>=4",
  "selenium>=4.20",
]

setuptools.setup(
  name="holorec_jax",
  version="0.1.0",
  description="Generative recommenders with semantic IDs in JAX",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["holorec_jax", "holorec_jax.*"]),
  package_data={"holorec_jax": ["evaluate/templates/*", "explore/page/*"]},
  install_requires=CORE,
  extras_require={
    "test": TEST,
    "serve": SERVE,
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    "beam": ["apache-beam>=2.77"],
    "saved_model": ["tensorflow>=2.21"],
    "sentence_transformers": ["sentence-transformers>=3"],
    "comparators": ["torch>=2.6", "transformers>=4.50"],
  },
)
