"""The machine that training runs on: devices, precision, randomness, wrapping of models."""
