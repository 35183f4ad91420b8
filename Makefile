# Two commands on a fresh machine:
#   make demo   set up, then run the whole way on a small phantom dataset (pictures and a report)
#   make test   set up, then lint, types and tests
# PYTHON chooses the interpreter that makes the virtual environment; VENV where it goes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test pytest torture lint types setup audit clean

setup: $(STAMP)

$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,lint]"
	touch $(STAMP)

DEMO := demo
DEMO_DATA := $(DEMO)/raw/Dataset901_Phantom
DEMO_SCHEDULE := epochs=6 iterations=40 validation_iterations=5 optimizer=adamw learning_rate=0.004 foreground_share=0.67

demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/renalplan_phantom $(DEMO_DATA) --cases 10 --test_cases 3 --seed 7 --size 64 96 96
	$(BIN)/renalplan_check $(DEMO_DATA)
	$(BIN)/renalplan_plan_and_preprocess 901 --workspace $(DEMO) --gpu_memory 0.12 --base_features 12
	$(BIN)/renalplan_train 901 0 UNet --workspace $(DEMO) --set $(DEMO_SCHEDULE)
	$(BIN)/renalplan_train 901 1 UNet --workspace $(DEMO) --set $(DEMO_SCHEDULE)
	$(BIN)/renalplan_predict -i $(DEMO_DATA)/imagesTs -o $(DEMO)/segmentations --workspace $(DEMO)
	$(BIN)/renalplan_evaluate $(DEMO)/segmentations $(DEMO_DATA)/labelsTs --images $(DEMO_DATA)/imagesTs -o $(DEMO)/report --require kidney=0.85
	$(BIN)/renalplan_report -i $(DEMO_DATA)/imagesTs/case_0010_0000.nii.gz -s $(DEMO)/segmentations/case_0010.nii.gz -o $(DEMO)/patient --labels $(DEMO_DATA)
	@echo "open $(DEMO)/report/summary.html and $(DEMO)/patient/case_0010.html"

# the type checker has one core busy for a minute: the tests begin meanwhile
test: lint
	$(MAKE) --no-print-directory --jobs 2 types pytest

# one process more than cores: tests that end programs, or start some, wait for a sixth of the time
pytest: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest tests -n $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder --durations 30

# what is too long for `test`: the commands are ended at random moments, three hours on one core
torture: $(STAMP)
	$(BIN)/python tests/long/torture.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/python tests/check_types.py

# Known faults of every pinned package; asks a public database.
audit: $(STAMP)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
