"""A run shown in TensorBoard, Weights & Biases, MLflow or trackio: views of its directory."""
