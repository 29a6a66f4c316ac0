#!/bin/sh
# This file stands in for conda, so that `mlflow run .` works on a machine without conda.
#
# `make setup` copies it to .venv/bin/conda. MLflow asks `conda env list --json` for an environment that is named after the
# text of conda.yaml. Then it runs `source activate NAME`, which finds .venv/bin/activate. The environment in .venv has the
# versions of conda.yaml, so the answer is its name. If there is a real conda on the PATH, it is started instead.
set -f
IFS=:
for folder in $PATH; do
  program=${folder:-.}/conda
  if [ -f "$program" ] && [ -x "$program" ] && ! grep -q 'stands in for conda' "$program"; then
    exec "$program" "$@"
  fi
done
unset IFS

if [ "$*" != 'env list --json' ]; then
  echo "conda: 'conda $*' needs a real conda; the one in .venv is a stand-in that only answers 'mlflow run .';" \
    "install conda, or add --env-manager=local" >&2
  exit 1
fi
exec "$(dirname "$0")/python" -I -c '
import hashlib, json, pathlib, sys
environment = pathlib.Path(sys.argv[1]).absolute().parents[1]
text = (environment.parent / "conda.yaml").read_text()
print(json.dumps({"envs": [f"{environment}/mlflow-{hashlib.sha1(text.encode()).hexdigest()}"]}))
' "$0"
