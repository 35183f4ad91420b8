"""Package metadata. The five code folders at the top level install as ONE namespace, `renalplan`."""

from pathlib import Path

from setuptools import setup

ROOMS = ("planners", "trainers", "inference", "evaluation")

# Folder in the repository -> package that users import. Sub-packages are found by name below.
FOLDERS = {"renalplan": "renalplan"} | {f"renalplan.{room}": room for room in ROOMS}


def packages() -> list[str]:
    """Every folder with an `__init__.py`, under its installed name."""
    found = []
    for package, folder in FOLDERS.items():
        for init in sorted(Path(folder).rglob("__init__.py")):
            inner = init.parent.relative_to(folder).parts
            found.append(".".join((package, *inner)))
    return found


COMMANDS = {
    "renalplan_check": "check",
    "renalplan_plan_and_preprocess": "plan_and_preprocess",
    "renalplan_train": "train",
    "renalplan_find_best": "find_best",
    "renalplan_predict": "predict",
    "renalplan_ensemble": "ensemble",
    "renalplan_evaluate": "evaluate",
    "renalplan_compare": "compare",
    "renalplan_surgery": "surgery",
    "renalplan_report": "report",
    "renalplan_dicom_seg": "dicom_seg",
    "renalplan_export_model": "export_model",
    "renalplan_install_model": "install_model",
    "renalplan_phantom": "phantom",
}

TRAINERS = {
    "UNet": "renalplan.trainers.unet",
    "DenseBiasNet": "renalplan.trainers.densebiasnet",
    "SCUNet": "renalplan.trainers.scunet",
    "BiSCUNet": "renalplan.trainers.biscunet",
    "CPNet": "renalplan.trainers.cpnet",
    "PANet": "renalplan.trainers.panet",
    "CoarseToFine": "renalplan.trainers.coarse_to_fine",
    "GroupTraining": "renalplan.trainers.group",
}

setup(
    name="renalplan",
    version="0.1.0",
    description="Self-configuring kidney-CT segmentation: plan, preprocess, train, predict, evaluate",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir=FOLDERS,
    package_data={"renalplan": ["py.typed"], "renalplan.evaluation.report": ["assets/*"]},
    install_requires=[
        "torch>=2.4",
        "SimpleITK>=2.3",
        "batchgenerators>=0.25.1,<0.26",
        "batchgeneratorsv2>=0.3.0,<0.4",
        "acvl-utils>=0.2.3,<0.3",
        "numpy>=2.0,<3",
        "scipy>=1.11",
        "scikit-learn>=1.6",
        "scikit-image>=0.22",
        "pandas>=2.1",
        "blosc2>=4.14.1",
        "isal>=1.6",
        "threadpoolctl>=3.1",
        "pydantic>=2.6,<3",
        "lightning-fabric>=2.3",
        "rich>=13",
        "matplotlib>=3.8",
        "edt>=2.4",
        "connected-components-3d>=3.12",
        "safetensors>=0.4.3",
        "tensorboard>=2.14",
        "trimesh>=4.4",
        "fast-simplification>=0.1.7",
    ],
    extras_require={
        "openvino": ["openvino>=2024.4"],  # two to four times faster prediction on CPUs
        "dicom": ["highdicom>=0.24", "pydicom>=3.0"],  # DICOM SEG out
        "dask": ["distributed>=2024.5"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "pytest-cov>=5",
            "hypothesis>=6.100",
            "build>=1.2",
            "psutil>=5.9",
            "openvino>=2024.4",
            "pydicom>=3.0",
            "distributed>=2024.5",
            "selenium>=4.20",
            "highdicom>=0.24",
            # an independent reader of DICOM SEG; its wheels are for few platforms
            "dcmqi>=1.3; sys_platform == 'linux' and platform_machine == 'x86_64'",
            # what our metrics are tested against
            "surface-distance==0.1",
            "medpy>=0.5.2,<0.6",
            "monai>=1.4",
            "seg-metrics>=1.2.8,<1.3",
        ],
        "lint": ["ruff>=0.15", "mypy>=1.15", "pandas-stubs"],
    },
    entry_points={
        "console_scripts": [f"{name} = renalplan.cli:{main}" for name, main in COMMANDS.items()],
        "renalplan.trainers": [f"{name} = {path}:{name}" for name, path in TRAINERS.items()],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
