package main

import "github.com/spf13/cobra"

func (a *app) overlordCmd() *cobra.Command { return parent("overlord", "x", "", "") }
func (a *app) minionCmd() *cobra.Command   { return parent("minion", "x", "", "") }
func (a *app) demoCmd() *cobra.Command     { return parent("demo", "x", "", "") }
func (a *app) configCmd() *cobra.Command   { return parent("config", "x", "", "") }
