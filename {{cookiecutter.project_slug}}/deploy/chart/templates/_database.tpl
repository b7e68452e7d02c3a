{{- define "chart.migrationLabels" -}}
{{ include "chart.labels" . }}
app.kubernetes.io/component: migration
{{- end }}

{{- define "chart.egressToDatabase" -}}
{{ include "chart.egressToDns" . }}
# PostgreSQL.
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.networkPolicy.databaseNamespace | quote }}
  ports:
    - port: 5432
      protocol: TCP
{{- if .Values.postgres.enabled }}
- to:
    - podSelector:
        matchLabels:
          app.kubernetes.io/name: {{ .Chart.Name }}
          app.kubernetes.io/component: postgres
  ports:
    - port: 5432
      protocol: TCP
{{- end }}
{{- end }}
