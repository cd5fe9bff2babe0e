{{- define "wattribute.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The release's name, with the chart's in it. 52 characters leave room for the suffixes of DaemonSet pods. */}}
{{- define "wattribute.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $made := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $made .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- /* Cluster-scoped objects also carry the namespace: two releases of one name in two namespaces are two. */}}
{{- define "wattribute.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "wattribute.fullname" .) }}
{{- end }}

{{- define "wattribute.selectorLabels" -}}
app.kubernetes.io/name: {{ include "wattribute.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wattribute.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "wattribute.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "wattribute.serviceAccountName" -}}
{{- default (include "wattribute.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "wattribute.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end }}
{{- end }}

{{- /* The agent's configuration: what follows from the other values, and `config` merged over it. */}}
{{- define "wattribute.config" -}}
{{- $values := .Values }}
{{- $kubernetes := dict "mode" "off" }}
{{- if $values.kubernetes.enabled }}
{{- $kubernetes = dict "mode" "auto" }}
{{- with $values.kubernetes.podLabels }}{{ $_ := set $kubernetes "pod_labels" . }}{{ end }}
{{- with $values.kubernetes.podAnnotations }}{{ $_ := set $kubernetes "pod_annotations" . }}{{ end }}
{{- end }}
{{- with $values.kubernetes.clusterName }}{{ $_ := set $kubernetes "cluster_name" . }}{{ end }}
{{- $otlp := dict "protocol" $values.otlp.protocol }}
{{- with $values.otlp.tls }}
{{- $tls := dict }}
{{- if .ca }}{{ $_ := set $tls "ca_file" (printf "/etc/wattribute-tls/%s" .ca) }}{{ end }}
{{- if .cert }}{{ $_ := set $tls "cert_file" (printf "/etc/wattribute-tls/%s" .cert) }}{{ end }}
{{- if .key }}{{ $_ := set $tls "key_file" (printf "/etc/wattribute-tls/%s" .key) }}{{ end }}
{{- if $tls }}{{ $_ := set $otlp "tls" $tls }}{{ end }}
{{- end }}
{{- $config := dict
  "host" (dict "proc" "/host/proc" "sys" "/host/sys")
  "state" (dict "directory" $values.stateDirectory)
  "kubernetes" $kubernetes
  "export" (dict "otlp" $otlp "stdout" (dict "enabled" false))
}}
{{- with $values.redfish.username }}{{ $_ := set $config "meters" (dict "redfish" (dict "username" .)) }}{{ end }}
{{- toYaml (mergeOverwrite $config (deepCopy $values.config)) }}
{{- end }}

{{- /* What a schema cannot say well: values that need each other. Each message names the value. */}}
{{- define "wattribute.check" -}}
{{- $values := .Values }}
{{- $otlp := dig "export" "otlp" dict $values.config }}
{{- if hasKey $otlp "endpoint" }}
{{- fail "config.export.otlp.endpoint: set otlp.endpoint, which the agent gets as a variable: it is stronger than the file" }}
{{- end }}
{{- if hasKey (dig "kubernetes" dict $values.config) "mode" }}
{{- fail "config.kubernetes.mode: set kubernetes.enabled instead, so that the rights follow" }}
{{- end }}
{{- if and (not $values.serviceAccount.create) (not $values.serviceAccount.name) }}
{{- fail "serviceAccount.name: needed where serviceAccount.create is false; `default` gets no rights" }}
{{- end }}
{{- with $values.otlp.tls }}
{{- $items := compact (list .ca .cert .key) }}
{{- if and .secretName (not $items) }}
{{- fail "otlp.tls: name a key of the Secret in ca, or in cert and key" }}
{{- end }}
{{- if and $items (not .secretName) }}
{{- fail "otlp.tls.secretName: needed for otlp.tls.ca, cert and key" }}
{{- end }}
{{- if ne (empty .cert) (empty .key) }}
{{- fail "otlp.tls: cert and key belong together" }}
{{- end }}
{{- end }}
{{- with $values.redfish }}
{{- if and .url (not (contains "$(" .url)) }}
{{- fail "redfish.url: needs $(K8S_NODE_NAME) or $(HOST_IP): each node has its BMC (one node: config.meters.redfish.url)" }}
{{- end }}
{{- end }}
{{- with $values.ipmi }}
{{- if and .enabled (not .access) }}
{{- fail "ipmi.access: devicePlugin or privileged; without either the device cgroup refuses /dev/ipmi0" }}
{{- end }}
{{- if and .enabled (eq .access "devicePlugin") (not .resource) }}
{{- fail "ipmi.resource: the resource of the device plugin, such as example.com/ipmi" }}
{{- end }}
{{- end }}
{{- range $name := list "podMonitor" "serviceMonitor" }}
{{- $monitor := index $values $name }}
{{- if and $monitor.enabled (not $monitor.selector) }}
{{- fail (printf "%s.selector: the labels of the Collector; the agent itself has no port to scrape" $name) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The part that PodMonitor and ServiceMonitor share: the Collector's labels and namespaces. */}}
{{- define "wattribute.monitored" -}}
selector:
  matchLabels:
    {{- toYaml .monitor.selector | nindent 4 }}
namespaceSelector:
  matchNames:
    {{- toYaml (default (list .namespace) .monitor.namespaces) | nindent 4 }}
{{- end }}
