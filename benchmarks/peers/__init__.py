"""The implementations facekernels is compared with, each in the best form we know."""
