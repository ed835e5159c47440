# What is done every day. `make check` is the gate, all of it in an environment of its own; the others use the
# environment that is active: pip install -e '.[test,lint,dev]'.
.PHONY: check matrix lint format test frameworks docs coverage accuracy

check:
	.ci/run

# every Python that is here, and the oldest versions admitted: takes long
matrix:
	.ci/matrix

lint:
	.ci/lint

format:
	ruff format .
	ruff check --fix .

test:
	pytest -n auto

# the gate leaves these out: they are large, or slow to start
frameworks:
	pip install jax tensorflow-cpu keras optax
	pytest -n auto -m "jax or tensorflow or keras or optax"

# writes what the program prints into README.md and docs, and the options into docs/cli.md
docs:
	python -m tests.test_docs

# child processes are counted, those that are killed are not; a test that fails has reached its lines all the same.
# Takes three times as long as the tests, and needs the frameworks for their candidates' sake
coverage:
	coverage erase
	-coverage run -m pytest -n auto
	coverage combine --quiet
	coverage html --quiet
	coverage report

# docs/accuracy.md, from what the frameworks answer here: pip install -e '.[flint,torch,jax,optax,tensorflow,keras,scipy]'
accuracy: accuracy.json
	python benchmarks/accuracy.py accuracy.json --output docs/accuracy.md

accuracy.json:
	gradcheck stability --engine flint --exit-zero --report json=$@ --quiet \
		$(foreach dtype,float16 bfloat16 float32 float64,--dtype $(dtype)) \
		$(foreach name,torch jax optax tensorflow keras scipy,--candidate $(name)) \
		$(foreach name,compensated shifted log_softmax logsumexp naive,--candidate $(name))
