"""An owner's part in studies: what it signs, what it keeps, and the training that it contributes."""
