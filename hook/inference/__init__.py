"""Inference on images, windows, scenes and tokens; ONNX export and model cards."""
