#!/usr/bin/env bash
# Writes monitoring.yaml anew: a ServiceMonitor, and rules.yml as a PrometheusRule, for the
# Prometheus operator. A test holds that it is what this prints:
#   deploy/kubernetes/monitoring.sh > deploy/kubernetes/monitoring.yaml
set -euo pipefail
cd "$(dirname "$0")"
cat << 'YAML'
# Made by deploy/kubernetes/monitoring.sh, for the Prometheus operator.
# With --metrics-key: `authorization: { credentials: { name: lungseg-metrics-key, key: key } }` beside
# `path`. Prometheus' namespace needs the label lungseg-caller=true.
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: { name: lungseg, labels: { app: lungseg } }
spec:
  selector: { matchLabels: { app: lungseg } }
  endpoints:
    - port: https
      scheme: https
      path: /metrics
      interval: 15s
      tlsConfig: { ca: { secret: { name: lungseg-tls, key: ca.crt } }, serverName: lungseg }
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: { name: lungseg, labels: { app: lungseg } }
spec:
YAML
sed -n '/^groups:/,$p' ../prometheus/rules.yml | sed 's/^./  &/'
