# make demo: everything once, small, on built-in photographs.   make test: lint, types and tests.
# make pages: app.py and the report in a browser (Chromium must be on the PATH), whose tests are skipped otherwise.
# make figures: the pictures of README.md and docs/ that need no data and no run of their own.
# make faults, make fuzz: runs that are disturbed and files that are damaged on purpose (docs/reliability.md), minutes each.
# Both need Python >= 3.10, git and make; the rest is installed into .venv. With LOCKED=1 that is first the very files of
# requirements-lock.txt, checked by their hashes (Linux x86-64, Python 3.11), as in continuous integration.

PYTHON ?= python3
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
SAMPLE := --set data_path=./data/sample --set 'eval_sets=[Sample]'
X4 := --config configs/SSUFSR_light_x4.yml $(SAMPLE)
LR := data/sample/benchmark/Sample/LR_bicubic/X4

.PHONY: demo test pages figures faults fuzz clean

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(if $(LOCKED),$(INSTALL) --no-deps --require-hashes -r requirements-lock.txt)
	$(INSTALL) -r requirements.txt
	touch $@

.venv/ready-to-test: .venv/ready requirements-test.txt requirements-video.txt requirements-export.txt
	$(INSTALL) -r requirements-test.txt
	$(INSTALL) --no-deps spandrel==0.4.2  # it would bring a torchvision, which belongs to another PyTorch
	touch $@

demo: .venv/ready
	rm -rf runs/demo results/demo
	$(BIN)/python -m datas.sample --out data/sample
	@echo "== train a small SSIU; half a minute of it"
	$(BIN)/python train.py --config configs/sample_x4.yml --set log_name=demo --set max_minutes=0.5
	@echo "== resume it; it ends annealed after at most one and a half minutes"
	$(BIN)/python train.py --resume runs/demo --set max_minutes=1.5
	@echo "== its scores, and below them those of the shipped weights of the full network"
	$(BIN)/python test.py --config configs/sample_x4.yml --set pretrain=runs/demo/best.pt --out results/demo/small
	$(BIN)/python test.py --config configs/SSUFSR_light_x4.yml $(SAMPLE) --save-images --out results/demo --json results/demo/scores.json
	$(BIN)/python -m tools.compare --config configs/SSUFSR_light_x4.yml $(SAMPLE) --sr results/demo --out results/demo/comparison.png

test: .venv/ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto --dist worksteal

pages: .venv/ready-to-test
	$(INSTALL) -r requirements-app.txt 'playwright>=1.50,<2'
	$(BIN)/python -m pytest -q tests/test_app.py tests/evaluation/test_pages_in_browser.py

figures: .venv/ready-to-test
	$(BIN)/python -m datas.sample --out data/sample
	$(BIN)/python test.py $(X4) --save-images --out results/ssiu
	$(BIN)/python test.py $(X4) --save-images --self-ensemble --out results/ssiu+
	$(BIN)/python -m tools.compare $(X4) --method SSIU=results/ssiu --method SSIU+=results/ssiu+ \
	    --crop rocket:58,116,48,48 --without LR --out docs/figures.png
	$(BIN)/python -m tools.compare $(X4) --method SSIU=results/ssiu --crop coffee:204,224,64,64 \
	    --without image --without LR --out docs/readme.png
	$(BIN)/python -m tools.crops --out docs/pictures.png
	$(BIN)/python -m tools.insight lam $(LR)/catx4.png --window 80,88,64 --out docs/insight-lam-cat.png
	$(BIN)/python -m tools.insight lam $(LR)/rocketx4.png --window 176,176,64 --out docs/insight-lam-rocket.png
	$(BIN)/python -m tools.insight stages $(LR)/catx4.png --hr data/sample/benchmark/Sample/HR/cat.png \
	    --crop 12,24,32,24 --palette --out docs/insight-stages.png
	$(BIN)/python -m tools.insight moe $(LR)/catx4.png $(LR)/coffeex4.png --out docs/insight-moe.png
	$(BIN)/python -m tools.insight attention $(LR)/catx4.png --stage 3 --query 45,37 --out docs/insight-attention.png

faults: .venv/ready-to-test
	$(BIN)/python -m tests.faults.run --count 500 --markdown

fuzz: .venv/ready-to-test
	$(BIN)/python -m tests.fuzz.run --count 100000
	FUZZ_EXAMPLES=3000 $(BIN)/python -m pytest -q tests/fuzz/test_structures.py

clean:
	rm -rf .venv runs results data/sample
