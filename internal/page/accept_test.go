package page

import "testing"

func TestAccepts(t *testing.T) {
	for header, want := range map[string][2]bool{ // gzip, identity
		"":                               {false, true},
		"gzip":                           {true, true},
		"GZIP":                           {true, true},
		"x-gzip":                         {true, true},
		"gzip, deflate, br":              {true, true},
		"deflate, br":                    {false, true},
		"gzip;q=0":                       {false, true},
		"gzip;q=0.000":                   {false, true},
		"gzip;q=0.001":                   {true, true},
		" gzip ; q = 0.5 , br;q=1":       {true, true},
		"gzip;Q=0":                       {false, true},
		"*":                              {true, true},
		"*;q=0":                          {false, false},
		"*;q=0, gzip":                    {true, false},
		"gzip;q=0, *":                    {false, true},
		"identity;q=0":                   {false, false},
		"identity;q=0, gzip":             {true, false},
		"identity;q=0, *;q=0.5":          {true, false},
		"identity;q=0.5, *;q=0":          {false, true},
		"identity":                       {false, true},
		",,gzip,":                        {true, true},
		"gzip;q=2":                       {false, true}, // malformed: as if it were not there
		"gzip;q=-1":                      {false, true},
		"gzip;q=NaN":                     {false, true},
		"gzip;level=9":                   {false, true},
		"gzip;q=":                        {false, true},
		"gzipped":                        {false, true},
		"gzip;q=1.0, identity; q=0.5":    {true, true},
		"deflate;q=1.0, *;q=0, gzip;q=0": {false, false},
	} {
		if gzip, identity := Accepts(header); gzip != want[0] || identity != want[1] {
			t.Errorf("Accepts(%q) = gzip %t, identity %t; want %t, %t", header, gzip, identity, want[0], want[1])
		}
	}
}

func FuzzAccepts(f *testing.F) {
	for _, header := range []string{"gzip", "gzip;q=0, *;q=1", "identity;q=0", "a;b;c,=;q", ",,;;"} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		gzip, identity := Accepts(header)
		if again, _ := Accepts(header + ",gzip;q=0"); again {
			t.Errorf("%q: gzip is taken although it is refused last", header)
		}
		if _, again := Accepts(header + ",br"); again != identity {
			t.Errorf("%q: another coding changes whether identity is taken", header)
		}
		_ = gzip
	})
}
