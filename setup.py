"""Finds the packages below src and data_prep; all else is in setup.cfg."""

from setuptools import find_packages, setup

setup(packages=[*find_packages("src"), *find_packages(include=["data_prep*"])])
