"""Language models in virtual time: the real cores, with arithmetic in place of kernels."""
