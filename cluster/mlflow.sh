#!/bin/sh
# The MLflow server, on loopback, unless one answers already. Two settings, in ~/mlflow.env (chmod 600) or in the
# environment, choose other stores than a file and a folder of this machine:
#   MLFLOW_BACKEND_STORE_URI=postgresql://USER:PASSWORD@HOST/mlflow    (pip install psycopg2-binary)
#   MLFLOW_ARTIFACTS_DESTINATION=s3://BUCKET/mlflow                    (pip install boto3)
set -eu
curl --fail --silent --output /dev/null http://127.0.0.1:5000/health && exit 0
set -a
# shellcheck source=/dev/null
if [ -f ~/mlflow.env ]; then . ~/mlflow.env; fi
set +a
mkdir -p ~/mlflow
: "${MLFLOW_BACKEND_STORE_URI:=sqlite:///$HOME/mlflow/mlflow.db}"
: "${MLFLOW_ARTIFACTS_DESTINATION:=$HOME/mlflow/artifacts}"
export MLFLOW_BACKEND_STORE_URI MLFLOW_ARTIFACTS_DESTINATION MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
[ "${1:-}" = --foreground ] && exec mlflow server --workers 1 --host 127.0.0.1 --port 5000
nohup setsid mlflow server --workers 1 --host 127.0.0.1 --port 5000 >~/mlflow/server.log 2>&1 </dev/null &
