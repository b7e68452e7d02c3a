{{/* The name of all objects. Two releases in a namespace have different names. */}}
{{- define "chart.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 57 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 57 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 57 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "chart.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ regexReplaceAll "[^A-Za-z0-9_.-]" (default .Chart.AppVersion .Values.version) "_" | trunc 63 | trimAll "_.-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Labels of the server. Other workloads, such as workers, have another component. */}}
{{- define "chart.serverLabels" -}}
{{ include "chart.labels" . }}
app.kubernetes.io/component: server
{{- end }}

{{- define "chart.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end }}

{{- define "chart.image" -}}
{{- $name := required "image.repository is empty; deploy with make, or set it to the name that `make image-name` prints" .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (required "image.digest and image.tag are empty; set one of them" .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* toJson, because large numbers would be written as 1.048576e+07. */}}
{{- define "chart.settings" -}}
{{- $settings := deepCopy .Values.settings }}
{{- if and (or .Values.httpRoute.enabled .Values.ingress.enabled) .Values.trustedProxies }}
{{- $settings = merge $settings (dict "APP_TRUSTED_PROXIES" .Values.trustedProxies) }}
{{- end }}
{{- range $name, $value := $settings }}
{{ $name }}: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{/* The name of another object of this release, such as its migration. */}}
{{- define "chart.nameWith" -}}
{{- $suffix := index . 1 }}
{{- printf "%s-%s" (include "chart.fullname" (index . 0) | trunc (int (sub 62 (len $suffix))) | trimSuffix "-") $suffix }}
{{- end }}

{{- define "chart.egressToDns" -}}
# DNS: of the cluster, and of a cache on the node (NodeLocal DNSCache). On OpenShift the DNS pods listen on port 5353.
- to:
    - namespaceSelector:
        matchExpressions:
          - key: kubernetes.io/metadata.name
            operator: In
            values: [kube-system, openshift-dns]
    - ipBlock:
        cidr: 169.254.20.10/32
  ports:
    {{- range list 53 5353 }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}
