"""The compute side: training, unlearning and evaluation of PyTorch classifiers."""
