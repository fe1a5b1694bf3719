package main

import (
	"time"

	"interrex/failover"
)

// nginxFiles tells how far the own nginx configurations follow the route.
func (a *agent) nginxFiles() []failover.NginxFile {
	var files []failover.NginxFile
	for _, r := range a.nginx {
		s := r.Status()
		f := failover.NginxFile{File: s.File, Epoch: s.Epoch, Wanted: s.Wanted, Error: s.Error, Stopped: s.Stopped, Warnings: s.Warnings}
		if s.Error != "" {
			f.ErrorFor = time.Since(s.ErrorSince)
		}
		files = append(files, f)
	}
	return files
}
