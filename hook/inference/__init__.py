"""A loaded model as functions of images, windows and tokens; ONNX files and model cards."""
