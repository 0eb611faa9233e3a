"""Models in other forms: ONNX, torch.export, and the authors' checkpoints converted."""
