"""What is measured of parameters: tensors in, numbers out."""
