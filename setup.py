"""Finds the packages: what lies beside src is installed inside instant3d; all else is in setup.cfg."""

from setuptools import find_packages, setup

DATA_PREP = [f"instant3d.{name}" for name in find_packages(include=["data_prep*"])]
setup(packages=[*find_packages("src"), *DATA_PREP, "instant3d.configs"])
