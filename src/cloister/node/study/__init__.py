"""An owner's part in studies: its signatures, its records, and the training that it contributes."""
