"""Files of weights and training state: safetensors and the framework's own checkpoint format."""

from minidl.io.checkpoint import load, save
from minidl.io.safetensors import load_safetensors, save_safetensors, write_bytes
from minidl.io.weights import load_weights
